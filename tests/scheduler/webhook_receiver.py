#!/usr/bin/env python3
"""A receiver of webhooks for the tests: checks each signature with Python's own hmac and writes down what came.

usage: webhook_receiver.py SECRETS LOG. Prints its port, then serves until it is killed. A line of SECRETS is PATH SECRET
(read at each request, so that secrets can be added). LOG gets a JSON line a request, synced before it is answered.
Paths say how it behaves: /good…, /flaky… (500 twice for each id, then good), /gone (410), /away (a redirect to /good-away),
/hang (answers after a minute), /long (an endless answer)."""
import base64, hashlib, hmac, http.server, json, os, sys, threading, time

secrets_file, log_file = sys.argv[1:3]
lock, seen = threading.Lock(), {}


def secret_of(path):
    for line in open(secrets_file):
        words = line.split()
        if len(words) == 2 and words[0] == path:
            return base64.b64decode(words[1][len("whsec_"):])
    return None


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        id_, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        key = secret_of(self.path)
        wanted = "v1," + base64.b64encode(
            hmac.new(key or b"", b"%s.%s." % (id_.encode(), at.encode()) + body, hashlib.sha256).digest()).decode()
        good = bool(key) and hmac.compare_digest(wanted, self.headers["webhook-signature"]) and \
            abs(time.time() - int(at)) < 60
        with lock:
            n = seen[id_] = seen.get(id_, 0) + 1
            status = 200
            if self.path.startswith("/flaky") and n <= 2:
                status = 500
            status = {"/gone": 410, "/away": 302}.get(self.path, status)
            with open(log_file, "a") as f:
                f.write(json.dumps({"path": self.path, "id": id_, "good": good, "status": status,
                                    "body": json.loads(body)}) + "\n")
                f.flush()
                os.fsync(f.fileno())
        if self.path == "/hang":
            time.sleep(60)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/good-away")
        if self.path == "/long":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            except OSError:
                return
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
