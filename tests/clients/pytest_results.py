"""A plugin for pytest: how each test has ended, and why where it failed, as JSON in the file that $RESULTS names.

Which server was asked is taken out of the reasons, so that a run against the upstream and one through the proxy compare.
"""

import json
import os
import re

results = {}


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message.splitlines()[0] if crash else ""
        results[report.nodeid] = f"{report.outcome} {re.sub(r'http://[0-9.:]+|0x[0-9a-f]+', '…', reason)}"


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open(os.environ["RESULTS"], "w") as file:
            json.dump(results, file)
