# SPDX-License-Identifier: Apache-2.0
"""JUnit XML as Jenkins and GitLab read it: https://github.com/testmoapp/junitxml.

A case of the run is a test case, and its figures are properties of it.
"""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from kickbench.export.results import Results

_XML_HAS_NOT = dict.fromkeys(
    (*range(0x20), 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)), "\N{REPLACEMENT CHARACTER}"
)


def write(results: Results) -> str:
    """A suite with a test for each case."""
    outcomes = Counter(case.outcome for case in results.cases)
    counts = {
        "tests": str(len(results.cases)),
        "failures": str(outcomes["fail"]),
        "errors": str(outcomes["error"]),
        "skipped": str(outcomes["skip"]),
        "time": f"{sum(case.seconds for case in results.cases):.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "kickbench", **counts})
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "name": _text(results.scenario),
            **counts,
            "timestamp": results.created_utc.removesuffix("Z"),
            "hostname": _text(results.fact("hostname")),
        },
    )
    for case in results.cases:
        names = {"name": _text(case.id), "classname": _text(f"kickbench.{case.kind}")}
        test = ElementTree.SubElement(suite, "testcase", {**names, "time": f"{case.seconds:.3f}"})
        if case.figures:
            properties = ElementTree.SubElement(test, "properties")
            for figure in case.figures:
                value = f"{figure.value:.9g} ({figure.low:.9g} to {figure.high:.9g}) {figure.unit}"
                ElementTree.SubElement(
                    properties, "property", {"name": _text(figure.name), "value": value}
                )
        tags = {"fail": "failure", "error": "error", "skip": "skipped"}
        if tag := tags.get(case.outcome):
            ElementTree.SubElement(test, tag, {"message": _text(case.reason)})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    return text.translate(_XML_HAS_NOT)
