"""Continuous batching: one engine a model decodes the answers of all its callers in one forward
pass a token. ``engine`` schedules, ``runner`` computes, ``rows`` and ``pages`` keep the keys and
values, ``attention`` puts them under transformers' own model code, ``sampling`` chooses."""
