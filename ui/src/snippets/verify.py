import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, HTTPServer

KEY = base64.b64decode(os.environ["PULSEHOOK_WEBHOOK_SECRET"].removeprefix("whsec_"))


def verified(headers, body):
    sent_at = headers["webhook-timestamp"]
    if abs(time.time() - int(sent_at)) > 300:
        return False
    signed = headers["webhook-id"].encode() + b"." + sent_at.encode() + b"." + body
    expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split())


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        good = verified(self.headers, body)
        self.send_response(204 if good else 401)
        self.end_headers()
        if good:
            print("verified", json.loads(body)["event_type"], flush=True)


server = HTTPServer(("127.0.0.1", int(os.environ.get("PORT", 8000))), Hook)
print("listening", flush=True)
server.serve_forever()
