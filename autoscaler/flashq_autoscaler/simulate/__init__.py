"""The decision on a trace of arrivals: the shipped `decide` beside other systems' rules and clairvoyant bounds.

`trace` reads what came when, `engine` lets workers start, work and end on a heap of events, `shipped` and `rules` say
how many there are to be, `bounds` what could not be beaten, `report` makes a row of each. `replay` decides again what
was recorded.
"""
