"""Evaluation: protocols, metrics with intervals, calibration, grounding and retrieval.

``protocols`` says what is asked; ``tables`` and ``joining`` bring scores and labels together; ``evaluation`` measures them;
``outputs`` writes. ``model_run`` makes scores with a model, ``grounding`` and ``retrieval`` measure the rest of it.
``results`` reads what was written back, and ``comparison`` measures the differences of two methods.
"""
