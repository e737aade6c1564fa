"""What a program does and how long it takes, known without any hardware.

    trace            the instructions that are executed, in order
    transfers        which transfers may still be under way, and what they touch
    checks           refuses a program that could go wrong on any machine
    plan             resolves a program into steps: addresses, weights, settings
    functional_model executes them on NumPy integers; the definition of every result
    memory_timing    the time of transfers
    timing           the cycle model, equal to the RTL's own counters
    report           what a program costs, layer by layer, and its listing

Whoever makes a program (compiler) and whoever runs one (machines) is held to this.
"""
