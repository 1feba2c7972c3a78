"""Has Schemathesis try everything the API's document says, and more, against a running server.

    conformance.py URL KEY EXAMPLES

It fails when an answer has a status, a media type or a shape that the document does not tell of, or is a fault of the server.
Objects are made first and put into the document, so that what is tried gets past the first door; what deletes them comes last.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
import uuid

url, key, examples = sys.argv[1:]


def call(method, path, body=None):
    request = urllib.request.Request(url + path, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("authorization", f"Bearer {key}")
    request.add_header("content-type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.loads(answer.read() or b"null")


site = call("POST", "/api/sites", {"domain": "example.com"})["site"]
goal = call("POST", "/api/sites/example.com/goals", {"event_name": "Signup"})["goal"]
triggers = [{"type": "goal_completion"}, {"type": "visitor_spike"}]
webhook = call("POST", "/api/sites/example.com/webhooks",
               {"name": "x", "url": "https://hooks.invalid.example/in", "triggers": triggers, "generate_secret": True})
webhook = webhook["webhook"]
path = f"/api/sites/example.com/webhooks/{webhook['id']}"
delivery = call("POST", f"{path}/test", {})["delivery"]
call("POST", "/api/keys", {"name": "Other", "role": "viewer"})
other_key = next(one for one in call("GET", "/api/keys")["keys"] if one["name"] == "Other")

# What stands for a name in a path: mostly something that is there.
REAL = {
    "site": {"*": "example.com"},
    "delivery_id": {"*": delivery["id"]},
    "trigger_id": {"*": webhook["triggers"][0]["id"]},
    "event_type": {"*": "goal_completion"},
    "id": {"/goals/{id}": goal["id"], "/webhooks/{id}": webhook["id"], "/keys/{id}": other_key["id"]},
}

document = call("GET", "/api/openapi.json")
for where, operations in document["paths"].items():
    for operation in operations.values():
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                known = REAL.get(parameter["name"], {})
                real = next((value for part, value in known.items() if part == "*" or part in where), None)
                values = [real] if real else []
                parameter["schema"] = {"type": "string", "enum": [*values, str(uuid.UUID(int=7)), "x"]}
                if real:
                    parameter["example"] = real

with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(document, file)
    file.flush()
    # A stream goes on for half an hour, and what is in it has its own tests. Signing out, or losing the account, would end it.
    ends = "^/api/(session|sessions|account)$"
    for part in (
        ["--exclude-method", "DELETE", "--exclude-path-regex", "/stream$"],
        ["--include-method", "DELETE", "--exclude-path-regex", ends],
    ):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", file.name, "--url", url,
            "--header", f"Authorization: Bearer {key}",
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--phases", "examples,coverage,fuzzing", "--max-examples", examples, "--seed", "1", "--no-color",
            "--generation-database", "none", "--suppress-health-check", "all", *part,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        print(*[line.strip() for line in done.stdout.splitlines() if " generated, " in line or "Tested:" in line], sep="; ")
