"""Reviews as long as the tutorial's, joined from real snippets of the default data set.

The tutorial prints how many of its 198,000 Yelp reviews have up to 10, 20, … tokens;
more than half have 100 or more. Its reviews are no longer to be had, so here each is a
run of snippets, one after the other from a random word on, cut where its length is
reached. The snippets have 20,000 words or so; real reviews never stop bringing new
ones, so a few words are made up of halves of two others, which leaves every pipeline
about as many distinct words as Yelp has.
"""

import json

import numpy as np

from benchmarks.ours import load_reviews, tokenize_all

COUNTS = [269, 4489, 13825, 14963, 14998, 14055, 12908, 11664, 10279, 100550]
LONGEST = 300  # the last bucket holds 100 tokens or more; here, 100 to 300
MADE_UP = 0.005  # of all words
CHUNK = 10_000


def random_lengths(count, rng):
    """Draw lengths in tokens: ndarray of int, shape (count,)."""
    bucket = rng.choice(len(COUNTS), count, p=np.array(COUNTS) / sum(COUNTS))
    last = bucket == len(COUNTS) - 1
    low = np.where(last, 100, 10 * bucket + 1)
    return rng.integers(low, np.where(last, LONGEST, low + 9), endpoint=True)


class Reviews:
    """Writes JSON lines with ``text`` and ``stars``, as Yelp's Open Dataset does."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        texts = load_reviews()["text"].sample(frac=1, random_state=seed)
        self.words = [word for text in texts for word in text.split()]
        tokens = tokenize_all(self.words, max_tokens=None).lengths
        self.tokens_before = np.concatenate([[0], tokens.cumsum()])

    def texts(self, count):
        """Return random reviews: list of str."""
        # so far from the end that the longest review has room
        room = np.searchsorted(self.tokens_before, self.tokens_before[-1] - LONGEST)
        starts = self.rng.integers(room, size=count)
        wanted = self.tokens_before[starts] + random_lengths(count, self.rng)
        stops = np.searchsorted(self.tokens_before, wanted)
        reviews = [self.words[a:b] for a, b in zip(starts, stops)]
        for review, made_up in zip(reviews, self.rng.binomial(stops - starts, MADE_UP)):
            for _ in range(made_up):
                one, other = (self.words[i] for i in self.rng.integers(room, size=2))
                halves = one[: (len(one) + 1) // 2] + other[len(other) // 2 :]
                review[self.rng.integers(len(review))] = halves
        return [" ".join(review) for review in reviews]

    def write(self, path, count):
        """Write so many reviews, the stars drawn at random."""
        with open(path, "w", encoding="utf-8") as file:
            for start in range(0, count, CHUNK):
                texts = self.texts(min(CHUNK, count - start))
                for text, stars in zip(texts, self.rng.integers(1, 6, len(texts))):
                    print(json.dumps({"text": text, "stars": int(stars)}), file=file)
