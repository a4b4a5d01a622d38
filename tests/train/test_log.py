"""What a run shows of its numbers."""

from smalti.train.log import shown


def test_parts_stand_behind_what_they_are_parts_of():
    numbers = {
        "held_out_psnr": 24.7612,
        "held_out_usage": 0.93,
        "held_out_usage_1x1": 0.512,
        "held_out_usage_2x2": 0.72,
        "held_out_perplexity": 211.234,
        "held_out_perplexity_1x1": 12.0,
        "held_out_perplexity_2x2": 33.3,
        "held_out_entropy_bits": 7.72,
        "held_out_entropy_bits_1x1": 3.58,
        "held_out_entropy_bits_2x2": 5.06,
    }
    assert shown(numbers) == (
        "held_out_psnr 24.76  held_out_usage 0.93 (1x1 0.51, 2x2 0.72)  "
        "held_out_perplexity 211.2 (1x1 12, 2x2 33)  "
        "held_out_entropy_bits 7.72 (1x1 3.6, 2x2 5.1)"
    )


def test_numbers_without_parts_are_as_they_were():
    assert shown({"loss": 1.23456, "tokens_per_s": 98765.0}) == "loss 1.235  tokens_per_s 9.876e+04"
