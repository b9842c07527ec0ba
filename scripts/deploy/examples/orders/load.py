#!/usr/bin/env python3
"""Shows the sums; here yours would write them to a database."""
import json
import sys

for customer, cents in sorted(json.load(sys.stdin)["sums"].items()):
    print(f"{customer}: {cents / 100:.2f}")
