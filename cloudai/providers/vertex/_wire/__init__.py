"""Between the neutral values and the JSON of Google's protos. Pure: no I/O, no SDK.

The vendor's field names stay in here.
"""
