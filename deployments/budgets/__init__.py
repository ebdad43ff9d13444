"""How much each key may ask and spend: counters in Redis, the same by hand where that is away."""
