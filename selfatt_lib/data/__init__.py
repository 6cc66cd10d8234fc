"""From raw reviews to batches.

Sources → texts and labels → tokens → numbers → buckets → batches.
"""
