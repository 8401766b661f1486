"""Write 24 coding jobs as JSON lines: edit, test, document, port, write, explain, four each.

usage: python dev/measure/coding_jobs.py > coding.jsonl
"""

from __future__ import annotations

import json
import sys

CACHE = """from collections import OrderedDict


class Cache:
    def __init__(self, size):
        self.size = size
        self.items = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, key, default=None):
        if key in self.items:
            self.items.move_to_end(key)
            self.hits += 1
            return self.items[key]
        self.misses += 1
        return default

    def put(self, key, value):
        self.items[key] = value
        self.items.move_to_end(key)
        if len(self.items) > self.size:
            self.items.popitem(last=False)

    def hit_rate(self):
        total = self.hits + self.misses
        return self.hits / total if total else 0.0
"""
REPORT = """import csv
from collections import defaultdict


def read_sales(path):
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            yield row["region"], row["product"], int(row["amount"]), float(row["price"])


def totals(path):
    by_region = defaultdict(float)
    by_product = defaultdict(float)
    for region, product, amount, price in read_sales(path):
        by_region[region] += amount * price
        by_product[product] += amount * price
    return by_region, by_product


def best(totals, count=3):
    return sorted(totals.items(), key=lambda item: item[1], reverse=True)[:count]
"""
LIMITER = """import time


class RateLimiter:
    def __init__(self, rate, burst):
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.last = time.monotonic()

    def allow(self, cost=1):
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now
        if self.tokens >= cost:
            self.tokens -= cost
            return True
        return False

    def wait_time(self, cost=1):
        missing = cost - self.tokens
        return max(0.0, missing / self.rate)
"""
GRAPH = """from collections import deque


class Graph:
    def __init__(self):
        self.edges = {}

    def add_edge(self, start, end, weight=1):
        self.edges.setdefault(start, []).append((end, weight))
        self.edges.setdefault(end, [])

    def reachable(self, start):
        seen = {start}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for end, _ in self.edges.get(node, []):
                if end not in seen:
                    seen.add(end)
                    queue.append(end)
        return seen

    def degree(self, node):
        return len(self.edges.get(node, []))
"""
CODE = {"cache": CACHE, "report": REPORT, "limiter": LIMITER, "graph": GRAPH}
EDITS = {
    "cache": "Rename the class to LRUCache, rename `size` to `capacity`, and raise ValueError if the capacity is below 1.",
    "report": "Add a `min_amount` parameter to read_sales and totals, default 0, which skips smaller amounts.",
    "limiter": "Make the class safe for threads with a lock around allow and wait_time.",
    "graph": "Rename `edges` to `neighbours`, and add a method `has_edge(start, end)`.",
}
NEW = {
    "parser": "Write a Python function that parses a string such as '1d 2h 30m' into a number of seconds, with error handling.",
    "sudoku": "Write a Python program that solves a Sudoku given as a list of nine strings, by backtracking.",
    "queue": "Write a Python class for a priority queue with `push`, `pop` and `update_priority`, based on heapq.",
    "server": "Write a small Python HTTP server with the standard library that stores notes in memory, with GET, POST and DELETE.",
}
PORTS = {"cache": "JavaScript", "report": "Go", "limiter": "Java", "graph": "Rust"}


def jobs() -> list[dict[str, str]]:
    """All jobs: id, category, prompt."""
    found = []
    for name, code in CODE.items():
        block = f"```python\n{code}```"
        whole = "Give the whole file, and nothing else."
        asked = {
            "edit": f"{EDITS[name]} {whole}\n\n{block}",
            "test": f"Write pytest tests for this file, at least five. Give only the test file.\n\n{block}",
            "docs": f"Add a docstring to every class and function of this file. {whole}\n\n{block}",
            "port": f"Port this file to {PORTS[name]}. Give only the code.\n\n{block}",
            "explain": f"Explain to a beginner what this file does, step by step.\n\n{block}",
        }
        found += [{"id": f"{name}-{kind}", "category": kind, "prompt": prompt} for kind, prompt in asked.items()]
    return found + [{"id": f"{name}-write", "category": "write", "prompt": prompt} for name, prompt in NEW.items()]


if __name__ == "__main__":
    sys.stdout.writelines(json.dumps(job) + "\n" for job in jobs())
