"""Directed graphs over the numbers 0 to n - 1: components, a cycle through a node, longest chains. All in linear time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

Graph = Sequence[Sequence[int]]
"""For each node those that its arrows go to."""


def strong_components(graph: Graph) -> list[int]:
    """For each node the number of its strongly connected component (Tarjan, without recursion)."""
    component, low, order = [-1] * len(graph), [0] * len(graph), [-1] * len(graph)
    stack: list[int] = []
    seen = found = 0
    for start in range(len(graph)):
        if order[start] >= 0:
            continue
        path = [(start, 0)]
        while path:
            node, at = path.pop()
            if order[node] < 0:
                order[node] = low[node] = seen
                seen += 1
                stack.append(node)
            for at in range(at, len(graph[node])):  # noqa: B020  goes on where it was interrupted
                other = graph[node][at]
                if order[other] < 0:
                    path += [(node, at), (other, 0)]
                    break
                if component[other] < 0:
                    low[node] = min(low[node], low[other])
            else:
                if low[node] == order[node]:
                    while True:
                        member = stack.pop()
                        component[member] = found
                        if member == node:
                            break
                    found += 1
    return component


def weak_components(graph: Graph) -> list[int]:
    """For each node the lowest number of a node that it is connected with, whatever the direction."""
    around: list[list[int]] = [[] for _ in graph]
    for node, targets in enumerate(graph):
        for other in targets:
            around[node].append(other)
            around[other].append(node)
    component = [-1] * len(graph)
    for start in range(len(graph)):
        if component[start] >= 0:
            continue
        component[start] = start
        waiting = [start]
        while waiting:
            for other in around[waiting.pop()]:
                if component[other] < 0:
                    component[other] = start
                    waiting.append(other)
    return component


def on_cycles(graph: Graph, component: Sequence[int]) -> list[bool]:
    """Whether each node is on a cycle; an arrow to itself is one."""
    sizes = [0] * len(graph)
    for number in component:
        sizes[number] += 1
    return [sizes[component[node]] > 1 or node in graph[node] for node in range(len(graph))]


def shortest_cycle(graph: Graph, component: Sequence[int], start: int) -> list[int]:
    """A shortest cycle through `start`, which is on one: its nodes in the direction of the arrows."""
    before = {start: -1}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for other in graph[node]:
            if other == start:
                walked = [node]
                while before[walked[-1]] >= 0:
                    walked.append(before[walked[-1]])
                return walked[::-1]
            if component[other] == component[start] and other not in before:
                before[other] = node
                waiting.append(other)
    raise ValueError("no cycle goes through this node")


def depths(graph: Graph) -> list[int]:
    """For each node the number of nodes on the longest chain that its arrows begin; ValueError if there is a cycle (Kahn)."""
    behind: list[list[int]] = [[] for _ in graph]
    open_arrows = [len(targets) for targets in graph]
    for node, targets in enumerate(graph):
        for other in targets:
            behind[other].append(node)
    depth = [1] * len(graph)
    waiting = [node for node, count in enumerate(open_arrows) if count == 0]
    done = 0
    while waiting:
        node = waiting.pop()
        done += 1
        for other in behind[node]:
            depth[other] = max(depth[other], depth[node] + 1)
            open_arrows[other] -= 1
            if open_arrows[other] == 0:
                waiting.append(other)
    if done < len(graph):
        raise ValueError("the graph has a cycle")
    return depth
