#!/usr/bin/env python3
"""Writes what the program is built of as CycloneDX 1.6, from what cargo says and the hashes of the lock file.

    scripts/sbom.py > pulsehook.cdx.json
"""

import json
import os
import subprocess
import sys
import tomllib

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
host = next(line[6:] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if line.startswith("host: "))
metadata = json.loads(subprocess.check_output(
    ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]))
with open("Cargo.lock", "rb") as file:
    hashes = {(one["name"], one["version"]): one.get("checksum") for one in tomllib.load(file)["package"]}
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
program = metadata["resolve"]["root"]


def needed(identifier):
    """What is compiled into it: the tests' and the build's own packages are not."""
    return [one["pkg"] for one in nodes[identifier]["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, kind):
    told = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"],
            "purl": purl(package)}
    if package["license"]:
        told["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = hashes.get((package["name"], package["version"]))
    if checksum:
        told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        told["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return told


found, waiting = {program}, [program]
while waiting:
    for one in needed(waiting.pop()):
        if one not in found:
            found.add(one)
            waiting.append(one)
order = sorted(found, key=lambda one: purl(packages[one]))
json.dump({
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {"component": component(packages[program], "application")},
    "components": [component(packages[one], "library") for one in order if one != program],
    "dependencies": [{"ref": purl(packages[one]), "dependsOn": sorted(purl(packages[two]) for two in set(needed(one)))}
                     for one in order],
}, sys.stdout, indent=2)
print()
