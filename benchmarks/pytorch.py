"""The same model in PyTorch, with the threads that PyTorch chooses."""

import time
from collections import namedtuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pad_packed_sequence,
    pad_sequence,
)
from torch.utils.data import DataLoader

from benchmarks import settings
from benchmarks.ours import HELD_OUT, prepare, texts_and_words, tokenize_all
from selfatt_lib.config import TrainingConfig

Prediction = namedtuple("Prediction", "probabilities tokens known attention")


class SelfAttentiveBiLSTM(nn.Module):
    """PyTorch's LSTM, all layers and both directions in one, and the attention."""

    def __init__(self, setting):
        super().__init__()
        sizes = setting.model
        u, hops, units = sizes.hidden_size, sizes.attention_hops, sizes.attention_units
        self.embedding = nn.Embedding(sizes.vocab_size, sizes.embedding_size)
        between_layers = sizes.dropout if sizes.num_layers > 1 else 0
        ways = {"bidirectional": True, "batch_first": True, "dropout": between_layers}
        self.lstm = nn.LSTM(sizes.embedding_size, u, sizes.num_layers, **ways)
        self.w_s1 = nn.Linear(2 * u, units, bias=False)
        self.w_s2 = nn.Linear(units, hops, bias=False)
        self.hidden = nn.Linear(hops * 2 * u, sizes.classifier_units)
        self.output = nn.Linear(sizes.classifier_units, 5)
        self.dropout = nn.Dropout(sizes.dropout)
        self.embedding_dropout = nn.Dropout(sizes.embedding_dropout)
        self.embedding.weight.requires_grad = sizes.train_embedding
        with torch.no_grad():
            weights = setting.weights().values()
            for parameter, weight in zip(self.parameters(), weights, strict=True):
                assert parameter.shape == weight.shape
                parameter.copy_(torch.from_numpy(weight))

    def forward(self, tokens, lengths=None):
        """Return logits and attention of reviews without padding, or longest first."""
        vectors = self.embedding_dropout(self.embedding(tokens))
        if lengths is None:
            hidden, _ = self.lstm(vectors)  # (B, T, 2u)
        else:
            packed = pack_padded_sequence(vectors, lengths, batch_first=True)
            hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        scores = self.w_s2(torch.tanh(self.w_s1(hidden))).transpose(1, 2)  # (B, r, T)
        if lengths is not None:
            padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
            padding = padding.to(scores.device)
            scores = scores.masked_fill(padding[:, None], -torch.inf)
        attention = torch.softmax(scores, dim=-1)
        embedding = self.dropout((attention @ hidden).flatten(1))  # (B, 2ur)
        hidden = self.dropout(torch.relu(self.hidden(embedding)))
        return self.output(hidden), attention


class TrainingStep:
    """A usual PyTorch loop on one batch, whose reviews are all as long."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device.replace("gpu", "cuda"))

    def build(self, setting):
        """Begin anew with this setting."""
        self.config = config = setting.config
        self.model = SelfAttentiveBiLSTM(setting).to(self.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, config.learning_rate)
        tokens, labels = setting.batch()
        self.tokens, self.labels = torch.from_numpy(tokens), torch.from_numpy(labels)
        weights = config.class_weights
        if not isinstance(weights, list):
            weights = [1.0] * 5
        self.class_weights = torch.tensor(weights, device=self.device)

    def step(self, tokens, labels, lengths=None):
        tokens, labels = tokens.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        logits, attention = self.model(tokens, lengths)
        loss = cross_entropy(logits, labels, self.class_weights, reduction="none")
        hops = torch.eye(attention.shape[1], device=self.device)
        overlap = attention @ attention.mT - hops
        penalty = (overlap**2).sum(dim=(1, 2))
        if self.config.penalty_form == "norm":
            penalty = penalty.sqrt()
        if self.config.penalty_form == "mean_squared":
            n = tokens.shape[1] if lengths is None else lengths.to(self.device)
            penalty = (penalty + n - len(hops)) / n**2
        loss = (loss + self.config.penalty_coefficient * penalty).mean()
        loss.backward()
        clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        return loss

    def run(self, steps):
        """Return the mean loss before each step: list of float."""
        return [self.step(self.tokens, self.labels).item() for _ in range(steps)]


class Epoch:
    """An epoch of reviews of all lengths, in random batches, as one would write it."""

    def __init__(self, device, parameters=None):
        config = TrainingConfig(**(parameters or {}) | HELD_OUT)
        corpus = prepare(config)
        batches = corpus.train_batches
        self.reviews = [
            (torch.from_numpy(batches.numbers[batches.tokenized[i]]).long(), label)
            for i, label in enumerate(batches.labels.tolist())
        ]
        sizes = *corpus.vectors.shape, len(corpus.labels)
        setting = settings.Setting(config, config.model_settings(*sizes), 1, 1)
        self.loop = TrainingStep(device)
        self.loop.build(setting)

    @staticmethod
    def collate(reviews):
        """Return tokens (B, T), labels (B,) and lengths (B,), longest first."""
        reviews = sorted(reviews, key=lambda review: -len(review[0]))
        tokens, labels = zip(*reviews)
        lengths = torch.tensor([len(each) for each in tokens])
        return pad_sequence(tokens, batch_first=True), torch.tensor(labels), lengths

    def seconds(self):
        """Train, and return what it took."""
        started, losses = time.perf_counter(), []
        size = self.loop.config.batch_size
        loader = DataLoader(self.reviews, size, shuffle=True, collate_fn=self.collate)
        for batch in loader:
            losses.append(self.loop.step(*batch).item())
        assert np.isfinite(losses).all()
        return time.perf_counter() - started


class MatrixProduct:
    """What costs a step most, at the best rate that a GPU reaches, with TF32."""

    def __init__(self, device, size):
        torch.backends.cuda.matmul.allow_tf32 = True
        self.device = torch.device(device.replace("gpu", "cuda"))
        self.a, self.b = torch.rand(2, size, size, device=self.device)

    def run(self, products):
        """Compute so many, and wait for the last."""
        for _ in range(products):
            product = self.a @ self.b
        return product[0, 0].item()


class Inference(settings.Predicting):
    """Texts in; probabilities, tokens and attention out, as our `Classifier` does."""

    def __init__(self, count):
        self.texts, self.vocab = texts_and_words(count)
        setting = settings.quick(len(self.vocab))
        self.model = SelfAttentiveBiLSTM(setting).eval()

    @torch.inference_mode()
    def predict(self, texts, batch_size=64):
        """Return a `Prediction` of each text; the longest are predicted first."""
        tokenized = tokenize_all(texts)
        numbers = np.array(self.vocab[tokenized.words])
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
                known = np.array([word in self.vocab for word in words])
                own = attention[row, :, : len(words)].numpy()
                predictions[i] = Prediction(probabilities[row], words, known, own)
        return predictions
