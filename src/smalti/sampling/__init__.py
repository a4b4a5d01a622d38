"""Pure functions of sampling: guidance, filters, noise."""
