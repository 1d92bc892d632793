"""Verdicts as JUnit XML, which build servers show as test results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from gradattr.metrics.checks import Verdict

#: What XML 1.0 cannot say, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(verdicts: Sequence[Verdict], suite: str = "gradattr check") -> str:
    """One test suite with a test case per verdict, in the order given.

    A case's class is ``<suite>.<metric>``, its name the check in words; what was found is the
    failure's message, or the case's output where it passed; a check that had nothing to compare
    with yet is skipped, with the reason. Characters that XML cannot hold are written as ``\\x00``.
    A function of the verdicts alone: no times, no machine.
    """
    failures = sum(not verdict.passed for verdict in verdicts)
    skipped = sum(verdict.passed and not verdict.made for verdict in verdicts)
    counts = {"tests": str(len(verdicts)), "failures": str(failures), "errors": "0"}
    counts["skipped"] = str(skipped)
    root = ElementTree.Element("testsuites", counts)
    parent = ElementTree.SubElement(root, "testsuite", {"name": _text(suite), **counts})
    for verdict in verdicts:
        case = ElementTree.SubElement(
            parent,
            "testcase",
            {"classname": _text(f"{suite}.{verdict.group}"), "name": _text(verdict.check)},
        )
        if verdict.passed and not verdict.made:
            ElementTree.SubElement(case, "skipped", {"message": _text(verdict.text)})
        elif verdict.passed:
            ElementTree.SubElement(case, "system-out").text = _text(verdict.text)
        else:
            failure = {"type": "CheckError", "message": _text(verdict.text)}
            ElementTree.SubElement(case, "failure", failure)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _text(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
