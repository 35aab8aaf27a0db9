"""What a file says about itself, and whether its shapes agree: the job `metadata`.

`stated` makes texts of strangers into values that can be relied on; `training` reads what trainers write; `job`
puts both beside what the adapter's shapes show. Weights are not read here.
"""
