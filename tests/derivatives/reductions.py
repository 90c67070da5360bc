"""Reductions, scans, softmax."""

import numpy as np

from tests.derivatives.case import Table, case, ints

REDUCTIONS = ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "LogSumExp"]
CASES: Table = {
    "CumSum": {
        "": case("y = CumSum(x, a)", a=np.int64(1)),
        "exclusive": case("y = CumSum<exclusive = 1>(x, a)", a=np.int64(-1)),
        "reverse": case("y = CumSum<reverse = 1, exclusive = 1>(x, a)", a=np.int64(2)),
    },
    "LogSoftmax": {
        "": case("y = LogSoftmax<axis = 1>(x)"),
        "over all the rest": case("y = LogSoftmax<axis = 1>(x)", opset=11, single=True),
    },
    **{
        f"Reduce{name}": {
            "": case(f"y = Reduce{name}(x, a)", a=ints(1)),
            "axes dropped": case(f"y = Reduce{name}<keepdims = 0>(x, a)", a=ints(0, -1)),
            "all": case(f"y = Reduce{name}<keepdims = 0>(x)"),
        }
        for name in REDUCTIONS
    },
    "ReduceLogSum": {"": case("y = ReduceLogSum<keepdims = 0>(x, a)", low=0.5, a=ints(0, 2))},
    "Softmax": {
        "": case("y = Softmax(x)"),
        "in the middle": case("y = Softmax<axis = 1>(x)"),
        "over all the rest": case("y = Softmax<axis = 1>(x)", opset=11, single=True),
    },
    "TopK": {
        "": case("y, i = TopK(x, k)", k=ints(2)),
        "smallest along the first axis": case("y, i = TopK<axis = 0, largest = 0>(x, k)", k=ints(1)),
    },
}
CASES["ReduceSum"] |= {
    "axes as an attribute": case("y = ReduceSum<axes = [1]>(x)", opset=11),
    "no axes": case("y = ReduceSum<noop_with_empty_axes = 1>(x)"),
}
CASES["ReduceMean"]["axes as an attribute"] = case("y = ReduceMean<axes = [-1], keepdims = 0>(x)", opset=13)
CASES["ReduceProd"]["with a zero"] = case("y = ReduceProd(w, a)", inputs="", a=ints(1), w=np.float32([[2, 0, 3], [1, 2, 4]]))
