"""From raw reviews to batches.

Sources → texts and stars → tokens → numbers → buckets → batches.
"""
