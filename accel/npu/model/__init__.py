"""The results and the run time of a program, computed without hardware.

    trace             the executed instructions, in order
    transfers         transfers in flight and the memory that they access
    checks            rejects programs whose result depends on timing, or that leave a memory
    plan              resolves a program into steps: addresses, weights, settings
    functional_model  executes the steps on NumPy integers and defines every result
    memory_timing     the time of transfers
    timing            the cycle model, equal to the RTL's counters
    crossing          the time on the line to the host, and of the same layers on the host
    report            cost per layer and segment, and the listing

The compiler and the machines both use this package as their reference.
"""
