"""Checks a document of OpenAPI 3.1 as its specification has it, and each example by the schema beside it."""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1]) as file:
    document = json.load(file)

OpenAPIV31SpecValidator(document).validate()

checked = 0
for path in document["paths"].values():
    for media in (path["post"]["requestBody"], path["post"]["responses"]["200"]):
        content = media["content"].get("application/json", {})
        if "example" in content:
            Draft202012Validator(content["schema"]).validate(content["example"])
            checked += 1
assert document["paths"]
print(f"{checked} examples")
