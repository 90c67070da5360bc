"""The plain form of a model, in which it is analysed and cut, and the way back.

In plain form local functions are inlined, a name means one tensor wherever it stands, and all weights are initializers of the
main graph (see `homes`). Where nothing was changed the way back leads to the model as it was read.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, inliner

from onnx_reconvene.errors import ModelError
from onnx_reconvene.homes import Homes, bring_together, graphs_by_name, is_scattered, put_nodes

MARK = "onnx_reconvene.mark"  # a domain of nodes that stand around what a function call is inlined to
BEGIN, END = "Begin", "End"
MOST_NODES, MOST_BYTES = 200_000, 2**31  # that local functions are inlined to
Key = tuple[str, str, str]  # domain, name and overload of a function


@dataclass(frozen=True)
class Call:
    """A call of a local function, and the nodes that it is inlined to."""

    node: NodeProto
    nodes: tuple[NodeProto, ...]


@dataclass(frozen=True)
class Plain:
    """A model in plain form, and what it was before."""

    model: ModelProto
    original: ModelProto
    calls: tuple[Call, ...]
    names: dict[str, str]  # those that were given to tensors in bodies -> those that they had
    homes: Homes


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among the attributes of node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield graph and the bodies of control flow in it, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs_in(body)


def nodes_in(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of graph and of the bodies in it, those of a body before the node that runs it."""
    for node in graph.node:
        for body in bodies(node):
            yield from nodes_in(body)
        yield node


def sort_nodes(graph: GraphProto) -> bool:
    """Put each node, in bodies too, behind those that it reads, and return True if some were not; in a cycle nothing moves."""
    moved = False
    for part in reversed(list(graphs_in(graph))):
        order = _order(part)
        if len(order) == len(part.node) and order != sorted(order):
            ordered = GraphProto(node=[part.node[k] for k in order])
            del part.node[:]
            part.node.extend(ordered.node)
            moved = True
    return moved


def _order(graph: GraphProto) -> list[int]:
    """Return the positions of nodes so that each comes behind those that it reads, otherwise as they are; those in a cycle lack."""
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    reads = [{makers[name] for name in _names_read(node) if name in makers} for node in graph.node]
    readers: dict[int, list[int]] = {}
    for k, read in enumerate(reads):
        read.discard(k)
        for maker in read:
            readers.setdefault(maker, []).append(k)
    ready, order = [k for k, read in enumerate(reads) if not read], []
    while ready:
        order.append(heapq.heappop(ready))
        for k in readers.get(order[-1], ()):
            reads[k].discard(order[-1])
            if not reads[k]:
                heapq.heappush(ready, k)
    return order


def _names_read(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for part in [part for body in bodies(node) for part in graphs_in(body)]:
        yield from [value.name for value in part.output]
        yield from [name for inner in part.node for name in inner.input]


def plain(original: ModelProto, arrays: dict[str, NDArray[Any]]) -> Plain | None:
    """Return the plain form of a model, None where the model is in plain form already; arrays: the data of large weights."""
    has_bodies = any(True for node in original.graph.node for _ in bodies(node))
    if not original.functions and not has_bodies and not is_scattered(original.graph):
        return None
    model = ModelProto()
    model.CopyFrom(original)
    calls = _inline(model) if model.functions else []
    names: dict[str, str] = {}
    taken = {name for node in model.graph.node for name in node.output}
    taken |= {value.name for value in [*model.graph.input, *model.graph.initializer]}
    taken |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    for node in model.graph.node:
        for body in bodies(node):
            _rename(body, {}, taken, names)
    called = tuple(_unmark(model.graph, calls))
    return Plain(model, original, called, names, bring_together(model, arrays))


def _key(node: NodeProto | FunctionProto) -> Key:
    return node.domain, node.op_type if isinstance(node, NodeProto) else node.name, node.overload


def _inline(model: ModelProto) -> list[NodeProto]:
    """Inline the local functions of model, each call between two marks that bear its number; returns the calls."""
    functions = {_key(function): function for function in model.functions}
    _check_expansion(model, functions)
    imported = {o.domain for o in model.opset_import}
    for needed in [o for function in model.functions for o in function.opset_import]:
        if needed.domain not in imported:
            imported.add(needed.domain)
            model.opset_import.add(domain=needed.domain, version=needed.version)
    for node in [node for function in model.functions for node in _with_inner(function.node)]:
        if _key(node) in functions:
            _give_defaults(node, functions[_key(node)])
    calls: list[NodeProto] = []
    for graph in graphs_in(model.graph):
        marked: list[NodeProto] = []
        for node in graph.node:
            if _key(node) not in functions:
                marked.append(node)
                continue
            number = str(len(calls))
            calls.append(NodeProto())
            calls[-1].CopyFrom(node)
            _give_defaults(node, functions[_key(node)])
            begin = NodeProto(op_type=BEGIN, domain=MARK, name=number, input=node.input)
            marked += [begin, node, NodeProto(op_type=END, domain=MARK, name=number, input=node.output)]
        put_nodes(graph, marked)
    model.CopyFrom(inliner.inline_local_functions(model))
    return calls


def _check_expansion(model: ModelProto, functions: dict[Key, FunctionProto]) -> None:
    """Raise ModelError where functions call each other in a circle, or would be inlined to too much."""
    calls = {key: Counter(filter(functions.__contains__, map(_key, _with_inner(f.node)))) for key, f in functions.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        raise ModelError(f"not a valid ONNX model: local function '{error.args[1][0][1]}' calls itself") from error
    nodes: dict[Key, int] = {}
    content: dict[Key, int] = {}  # bytes
    for key in order:
        nodes[key] = len(functions[key].node) + sum(count * nodes[callee] for callee, count in calls[key].items())
        content[key] = functions[key].ByteSize() + sum(count * content[callee] for callee, count in calls[key].items())
    called = [key for key in map(_key, nodes_in(model.graph)) if key in functions]
    if sum(nodes[key] for key in called) > MOST_NODES or sum(content[key] for key in called) > MOST_BYTES:
        raise ModelError(f"local functions are called so often that they stand for more than {MOST_NODES:,} nodes or 2 GB")


def _give_defaults(node: NodeProto, function: FunctionProto) -> None:
    """Add the attributes that a call leaves out; the inliner of onnx would drop them."""
    given = {attribute.name for attribute in node.attribute}
    node.attribute.extend(default for default in function.attribute_proto if default.name not in given)


def _rename(body: GraphProto, outer: dict[str, str], taken: set[str], names: dict[str, str]) -> None:
    """Give every tensor that a body defines a name that is not taken; outer says how tensors around it are called now."""
    scope = dict(outer)

    def define(name: str) -> str:
        new, again = name, 1
        while new in taken:
            again += 1
            new = f"{name}_{again}"
        taken.add(new)
        scope[name] = new
        if new != name:
            names[new] = name
        return new

    inputs = {value.name: define(value.name) for value in body.input}
    for tensor in [*body.initializer, *(sparse.values for sparse in body.sparse_initializer)]:
        tensor.name = inputs.get(tensor.name) or define(tensor.name)
    for node in body.node:
        node.input[:] = [scope.get(name, name) for name in node.input]
        for inner in bodies(node):
            _rename(inner, scope, taken, names)
        node.output[:] = [define(name) if name else name for name in node.output]
    _rename_values(body, scope)


def _rename_values(body: GraphProto, names: dict[str, str]) -> None:
    """Put new names wherever a body speaks of its values."""
    for value in [*body.input, *body.output, *body.value_info]:
        value.name = names.get(value.name, value.name)
    for annotation in body.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)


def _unmark(model: GraphProto, calls: list[NodeProto]) -> Iterator[Call]:
    """Remove the marks; yields the calls, under the names that their tensors have now, with what stood between the marks."""
    for graph in graphs_in(model) if calls else ():
        bare: list[NodeProto] = []
        for node in graph.node:
            if node.domain != MARK:
                bare.append(node)
            elif node.op_type == BEGIN:
                start, read = len(bare), node.input
            else:
                call = calls[int(node.name)]
                call.input[:], call.output[:] = read, node.input
                for inlined in bare[start:]:
                    if call.name and inlined.name:
                        inlined.name = f"{call.name}/{inlined.name}"
                yield Call(call, tuple(bare[start:]))
        put_nodes(graph, bare)


def as_read(form: Plain, changed: ModelProto, arrays: dict[str, NDArray[Any]]) -> ModelProto:
    """Return a changed model in plain form with its function calls, names and weights as they were and where they were, as far as
    what was changed allows for it. arrays: the data of large initializers; those that move elsewhere take theirs along."""
    untouched = form.homes.untouched(changed.graph, arrays)
    if changed == form.model and untouched == form.homes.by_name.keys():
        result = ModelProto()
        result.CopyFrom(form.original)
        del result.metadata_props[:]
        result.metadata_props.extend(changed.metadata_props)
        for name in form.homes.dense:
            del arrays[name]
        return result
    result = ModelProto()
    result.CopyFrom(changed)
    form.homes.put_back(result.graph, untouched, arrays)
    _call_again(result, form, form.homes.by_name.keys() - untouched)
    for name, body in graphs_by_name(result.graph):
        if not name:
            continue
        for node in body.node:
            node.input[:] = [form.names.get(name, name) for name in node.input]
            node.output[:] = [form.names.get(name, name) for name in node.output]
        for tensor in [*body.initializer, *(sparse.values for sparse in body.sparse_initializer)]:
            tensor.name = form.names.get(tensor.name, tensor.name)
        _rename_values(body, form.names)
    return result


def _call_again(model: ModelProto, form: Plain, changed: Collection[str]) -> None:
    """Put calls in place of nodes that are as they were inlined, and read no weight that has changed. A function that declares
    shapes of its own is not called again, for these may have changed."""
    nodes = {node.output[0]: node for node in nodes_in(model.graph) if node.output}
    again = {}
    for call in [] if any(function.value_info for function in form.original.functions) else form.calls:
        inlined = list(_with_inner(call.nodes))
        stays = all(nodes.get(node.output[0]) == node for node in call.nodes)
        if call.nodes and stays and not any(name in changed for node in inlined for name in node.input):
            again.update({node.output[0]: call.node if k == 0 else None for k, node in enumerate(call.nodes)})
    gone = {name for node in nodes.values() if again.get(node.output[0], node) is not node for name in node.output}
    gone -= {name for call in form.calls for name in call.node.output}
    for graph in graphs_in(model.graph):
        kept = [again.get(node.output[0], node) if node.output else node for node in graph.node]
        put_nodes(graph, [node for node in kept if node is not None])
        for value in [value for value in graph.value_info if value.name in gone]:
            graph.value_info.remove(value)
    _put_functions(model, form.original)


def _with_inner(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nodes_in(body)


def _put_functions(model: ModelProto, original: ModelProto) -> None:
    """Keep the functions that are called and those that never were, and import what is used beside what was imported."""
    never = {_key(function) for function in original.functions} - _called(original, original)
    called = _called(model, original)
    del model.functions[:]
    model.functions.extend(function for function in original.functions if _key(function) in called | never)
    used = {node.domain for node in nodes_in(model.graph)} | {o.domain for o in original.opset_import}
    for needed in [o for o in model.opset_import if o.domain not in used]:
        model.opset_import.remove(needed)


def _called(model: ModelProto, original: ModelProto) -> set[Key]:
    """Return which functions of original the graph of model calls, through others too."""
    functions = {_key(function): function for function in original.functions}
    found: set[Key] = set()
    waiting = list(nodes_in(model.graph))
    while waiting:
        key = _key(waiting.pop())
        if key in functions and key not in found:
            found.add(key)
            waiting += _with_inner(functions[key].node)
    return found
