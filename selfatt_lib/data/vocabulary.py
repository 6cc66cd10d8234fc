"""Which words have numbers, and how much of a text they cover."""

import numpy as np


class Vocabulary:
    """Words and their numbers.

    Parameters
    ----------
    tokens : list of str
        The word of each number: ``<unk>``, ``<pad>``, then the others.

    Attributes
    ----------
    idx_to_token : list of str
    token_to_idx : dict

    Examples
    --------
    >>> vocab = Vocabulary(["<unk>", "<pad>", "a", "film"])
    >>> vocab["film"], vocab[["a", "lovely", "film"]]
    (3, [2, 0, 3])
    >>> "lovely" in vocab, len(vocab)
    (False, 4)
    """

    UNKNOWN, PADDING = 0, 1

    def __init__(self, tokens):
        self.idx_to_token = list(tokens)
        self.token_to_idx = {word: i for i, word in enumerate(self.idx_to_token)}

    def __len__(self):
        return len(self.idx_to_token)

    def __contains__(self, word):
        return word in self.token_to_idx

    def __getitem__(self, words):
        if isinstance(words, str):
            return self.token_to_idx.get(words, self.UNKNOWN)
        return [self[word] for word in words]


def build_vocab(tokenized, max_size=10_000):
    """Number the commonest words.

    Parameters
    ----------
    tokenized : TokenizedTexts
        The training texts.
    max_size : int, default 10,000

    Returns
    -------
    Vocabulary
        0 is ``<unk>``, 1 is ``<pad>``; then the words, commonest first, and equally
        common ones by the alphabet. The tutorial's ``<bos>`` and ``<eos>``, which no
        text uses, are left out.
    """
    counts = np.zeros(len(tokenized.words), int)
    for start in range(0, len(tokenized.ids), 2**20):  # bincount copies what it counts
        some = tokenized.ids[start : start + 2**20]
        counts += np.bincount(some, minlength=len(counts))
    ordered = sorted(zip((-counts).tolist(), tokenized.words))  # commonest first
    special = ["<unk>", "<pad>"]
    words = [word for count, word in ordered if count and word not in special]
    return Vocabulary(special + words[:max_size])


def coverage(tokenized, known):
    """Return the share of running tokens that are known.

    Parameters
    ----------
    tokenized : TokenizedTexts
    known : set, dict or Vocabulary
        The words known: anything that answers to ``in``.

    Returns
    -------
    float
        From 0 to 1.
    """
    is_known = np.array([word in known for word in tokenized.words], dtype=bool)
    return float(is_known[tokenized.ids].mean())
