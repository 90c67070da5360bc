"""Operators that are known and deliberately freeze what they touch, and why."""

POSITIONS = "the positions of its elements matter"
SEQUENCE = "it handles sequences, not tensors"
RANDOM = "its result is random, so a cut cannot be verified"
TEXT = "it handles text"
SIGNAL = "it transforms signals as a whole"
LOSS = "it computes a loss over classes"

FROZEN = {
    **dict.fromkeys(["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"], RANDOM),
    **dict.fromkeys(["ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt"], SEQUENCE),
    **dict.fromkeys(["SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"], SEQUENCE),
    **dict.fromkeys(["SequenceLength", "SequenceMap", "SplitToSequence"], SEQUENCE),
    **dict.fromkeys(["RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"], TEXT),
    **dict.fromkeys(["BlackmanWindow", "DFT", "HammingWindow", "HannWindow", "MelWeightMatrix", "STFT"], SIGNAL),
    **dict.fromkeys(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], LOSS),
    **dict.fromkeys(["AffineGrid", "Col2Im", "Det", "EyeLike", "ImageDecoder", "MaxUnpool"], POSITIONS),
    **dict.fromkeys(["NonMaxSuppression", "NonZero", "OneHot", "Range", "Scatter", "ScatterElements", "TensorScatter"], POSITIONS),
    **dict.fromkeys(["Unique"], POSITIONS),
    "LinearAttention": "it carries a state from step to step",
    "Shape": "the shape of its input is not known",
    "Size": "the shape of its input is not known",
}
