// npm install standardwebhooks
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.PULSEHOOK_WEBHOOK_SECRET);

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  try {
    const event = webhook.verify(Buffer.concat(parts), request.headers);
    response.writeHead(204).end();
    console.log("verified", event.event_type);
  } catch {
    response.writeHead(401).end();
  }
}).listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => console.log("listening"));
