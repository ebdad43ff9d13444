from __future__ import annotations

from serve_app.metrics import ours

SCRAPED = """# HELP ray_node_cpu_count CPUs
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{ip="127.0.0.1"} 2.0
# HELP ray_groupqwen_queries Queries
# TYPE ray_groupqwen_queries counter
ray_groupqwen_queries_total{variant="qwen3-8b"} 7.0
# HELP ray_serve_num_http_requests Requests
# TYPE ray_serve_num_http_requests counter
ray_serve_num_http_requests{route="/"} 9.0
ray_gcs_groupqwen_tricky 1.0
"""


def test_only_our_series_are_kept_with_their_help_and_type() -> None:
    assert ours(SCRAPED).splitlines() == [line for line in SCRAPED.splitlines() if "node" not in line][:-1]
    assert ours(SCRAPED).endswith("9.0\n")
    assert ours("") == "\n"
