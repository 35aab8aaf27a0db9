"""The job `metadata`: what a file says about itself, and whether its shapes agree (SPEC section 7).

`stated` makes texts of strangers into values that can be relied on; `training` reads what trainers write; `job`
puts both beside what the adapter's shapes show. Weights are not read, unless NaN is looked for.
"""
