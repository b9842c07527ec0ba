#!/usr/bin/env python3
"""Sums the orders by customer, in cents."""
import json
import os
import sys

sums = {}
for order in json.load(sys.stdin)["orders"]:
    cents = round(float(order["amount"]) * 100)
    sums[order["customer"]] = sums.get(order["customer"], 0) + cents
print(f"{len(sums)} customers")
with open(os.environ["CLOACINA_OUTPUT"], "w") as output:
    json.dump({"sums": sums}, output)
