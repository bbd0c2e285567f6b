"""Names of classes that were seen to end a run, or to spoil a figure, here or elsewhere."""

NAMES = (
    "läsion", "正常", "異常", "نزيف", "🫁", "a$b$", r"$\frac{", "x_{1}^", "_benign", 'no "b", c',
    "<b>&amp;", "50 %", "-1", "p normal", "label", "x" * 150 + "1", "x" * 150 + "2",
)  # fmt: skip
