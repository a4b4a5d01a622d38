"""`python -m smalti`, which `torchrun -m smalti` needs."""

from smalti.cli.main import main

if __name__ == "__main__":
    main()
