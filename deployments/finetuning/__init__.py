"""Fine-tuning jobs: their queue, their rows, and the processes (Ray jobs) that run them."""
