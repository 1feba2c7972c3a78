"""Verifies a delivery with the Standard Webhooks library. Reads {secret, headers, body} from standard input and prints
{"standard": true}, or why not."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

given = json.load(sys.stdin)
try:
    Webhook(given["secret"]).verify(given["body"], given["headers"])
    answer = True
except WebhookVerificationError as error:
    answer = str(error)
print(json.dumps({"standard": answer}))
