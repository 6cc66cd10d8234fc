"""The same model in PyTorch, with the threads that PyTorch chooses."""

import json
import sys
from collections import namedtuple
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import settings

Prediction = namedtuple("Prediction", "probabilities tokens known attention")


class SelfAttentiveBiLSTM(nn.Module):
    """PyTorch's LSTM, all layers and both directions in one, and the attention."""

    def __init__(self, setting):
        super().__init__()
        width, hops = 2 * setting.hidden_size, setting.attention_hops
        self.embedding = nn.Embedding(setting.vocab_size, setting.embedding_size)
        self.lstm = nn.LSTM(
            setting.embedding_size,
            setting.hidden_size,
            setting.num_layers,
            batch_first=True,
            dropout=setting.dropout if setting.num_layers > 1 else 0,
            bidirectional=True,
        )
        self.w_s1 = nn.Linear(width, setting.attention_units, bias=False)
        self.w_s2 = nn.Linear(setting.attention_units, hops, bias=False)
        self.hidden = nn.Linear(hops * width, setting.classifier_units)
        self.output = nn.Linear(setting.classifier_units, 5)
        self.dropout = nn.Dropout(setting.dropout)
        self.embedding_dropout = nn.Dropout(setting.embedding_dropout)
        self.embedding.weight.requires_grad = setting.train_embedding
        with torch.no_grad():
            weights = setting.weights()
            for parameter, weight in zip(self.parameters(), weights, strict=True):
                assert parameter.shape == weight.shape
                parameter.copy_(torch.from_numpy(weight))

    def forward(self, tokens, lengths=None):
        """Return logits and attention.

        Without `lengths` (longest first) all reviews fill the batch: no mask.
        """
        hidden = self.embedding_dropout(self.embedding(tokens))
        if lengths is not None:
            hidden = pack_padded_sequence(hidden, lengths, batch_first=True)
        hidden, _ = self.lstm(hidden)
        if lengths is not None:
            hidden, _ = pad_packed_sequence(hidden, batch_first=True)  # (B, T, 2u)
        scores = self.w_s2(torch.tanh(self.w_s1(hidden))).transpose(1, 2)  # (B, r, T)
        if lengths is not None:
            padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
            scores = scores.masked_fill(padding[:, None], -torch.inf)
        attention = torch.softmax(scores, dim=-1)
        embedding = self.dropout((attention @ hidden).flatten(1))  # (B, 2ur)
        hidden = self.dropout(torch.relu(self.hidden(embedding)))
        return self.output(hidden), attention


class TrainingStep:
    """A usual PyTorch loop on one batch, whose reviews are all as long."""

    def build(self, setting):
        """Begin anew with this setting."""
        self.setting = setting
        self.model = SelfAttentiveBiLSTM(setting)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, setting.learning_rate)
        tokens, stars = setting.batch()
        self.tokens, self.labels = torch.from_numpy(tokens), torch.from_numpy(stars - 1)
        self.class_weights = torch.tensor(setting.class_weights or [1.0] * 5)

    def step(self):
        self.optimizer.zero_grad()
        logits, attention = self.model(self.tokens)
        loss = cross_entropy(logits, self.labels, self.class_weights, reduction="none")
        overlap = attention @ attention.mT - torch.eye(attention.shape[1])
        penalty = (overlap**2).sum(dim=(1, 2))
        if self.setting.penalty_form == "norm":
            penalty = penalty.sqrt()
        loss = (loss + self.setting.penalty_coefficient * penalty).mean()
        loss.backward()
        clip_grad_norm_(self.trained, self.setting.clip_norm)
        self.optimizer.step()
        return loss

    def run(self, steps):
        """Return the mean loss before each step: list of float."""
        return [self.step().item() for _ in range(steps)]


class Inference(settings.Predicting):
    """Texts in; probabilities, tokens and attention out, as our `Classifier` does.

    Parameters
    ----------
    run_dir : str
        Where our side has put its vocabulary.
    reviews : int
        So many are predicted.
    """

    def __init__(self, run_dir, reviews):
        # our tokenizer, without MXNet, which its package imports for other things
        sys.modules["selfatt_lib.machinery.runtime"] = MagicMock()
        from benchmarks.ours import load_reviews, tokenize_all

        self.tokenize_all = tokenize_all
        self.texts = load_reviews(size=reviews)["text"].tolist()
        vocab = json.loads(Path(run_dir, "vocab.json").read_text(encoding="utf-8"))
        self.number = {word: i for i, word in enumerate(vocab["idx_to_token"])}
        setting = settings.quick(vocab_size=len(self.number))
        self.model = SelfAttentiveBiLSTM(setting).eval()

    @torch.inference_mode()
    def predict(self, texts, batch_size=64):
        """Return a `Prediction` of each text; the longest are predicted first."""
        tokenized = self.tokenize_all(texts)
        numbers = np.array([self.number.get(word, 0) for word in tokenized.words])
        order = np.argsort(-tokenized.lengths, kind="stable")
        predictions = [None] * len(texts)
        for start in range(0, len(texts), batch_size):
            some = order[start : start + batch_size]
            lengths = torch.from_numpy(tokenized.lengths[some])
            tokens = torch.ones(len(some), int(lengths[0]), dtype=torch.int64)
            for row, i in zip(tokens, some):
                row[: len(tokenized[i])] = torch.from_numpy(numbers[tokenized[i]])
            logits, attention = self.model(tokens, lengths)
            probabilities = torch.softmax(logits, dim=-1).numpy()
            for row, i in enumerate(some):
                words = [tokenized.words[word] for word in tokenized[i]]
                known = np.array([word in self.number for word in words])
                own = attention[row, :, : len(words)].numpy()
                predictions[i] = Prediction(probabilities[row], words, known, own)
        return predictions
