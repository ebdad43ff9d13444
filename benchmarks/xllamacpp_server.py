"""xllamacpp's server, run by the peers' Python (see peers.txt).

Arguments: MODEL PORT THREADS PARALLEL CONTEXT.
"""

import signal
import sys

import xllamacpp


def main() -> None:
    model, port, threads, parallel, context = sys.argv[1], *map(int, sys.argv[2:6])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context
    params.n_parallel = parallel
    params.kv_unified = True
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.warmup = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
