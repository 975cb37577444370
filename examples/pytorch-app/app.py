"""A small network behind HTTP: POST ten numbers to port 5000, get one."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch

LARGEST = 4096  # bytes of a request


def trained() -> torch.nn.Module:
    """Ten numbers in, their sum out, learnt from examples."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    inputs = torch.rand(200, 10)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step()
    return model.eval()


class Handler(BaseHTTPRequestHandler):
    """Answers ``POST`` with what the model makes of the body."""

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        try:
            numbers = json.loads(self.rfile.read(min(size, LARGEST)))
            answer = MODEL(torch.tensor([numbers], dtype=torch.float32)).item()
        except (ValueError, TypeError, RuntimeError):
            self.send_error(400, "send ten numbers as a JSON list")
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    MODEL = trained()
    server = HTTPServer(("0.0.0.0", int(sys.argv[1]) if len(sys.argv) > 1 else 5000), Handler)
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()
