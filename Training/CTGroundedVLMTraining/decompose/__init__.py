"""Reports -> one description and one explicit normality status per organ, for training (``ctgvlm-train decompose``).

By rules (``rules``, no torch) or by a language model (``llm``), through ``runner.decompose`` into a ``journal``.
"""
