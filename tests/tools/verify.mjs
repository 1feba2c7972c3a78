// Verifies a delivery with libraries nobody here wrote. Reads {secret, text, headers, body} from standard input and
// prints {standard, github}: whether each accepts it.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";
import { verify } from "@octokit/webhooks-methods";

const { secret, text, headers, body } = JSON.parse(readFileSync(0, "utf8"));

function standard() {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch (error) {
    return String(error.message);
  }
}

const github = await verify(text, body, headers["x-webhook-signature"]);
console.log(JSON.stringify({ standard: standard(), github }));
