"""Published data sets and generated ones: fetch, unpack, convert."""
