"""The tutorial's way, written anew from its description for the Python of today.

Its pipeline, its model, its loop. Two things of the model follow the paper, as ours
does, so that both compute the same: the attention has no bias, the classifier is a
ReLU. Neither costs time worth speaking of. The gradient is that of the mean loss, where
the tutorial divides by the batch size later on.
"""

import multiprocessing

import spacy

from benchmarks import settings
from selfatt_lib.machinery.runtime import mx, nlp

gluon, nd = mx.gluon, mx.nd

# Pipeline: a process a core tokenizes whole texts, clips them, and later numbers their
# words. The processes are forked and find what they need in these names.

_spacy = spacy.blank("en")
_clip = nlp.data.ClipSequence(100)
_vocab = None


def _tokenize(review):
    text, stars = review
    return _clip([token.text for token in _spacy(text)]), stars - 1


def _length(review):
    return float(len(review[0]))


def _number(review):
    tokens, label = review
    return _vocab[tokens], label


class Pipeline:
    """From raw texts to batches."""

    def __init__(self, path, count):
        self.reviews = settings.read_reviews(path, count)

    def run(self):
        """Return how many reviews and how many tokens came out."""
        global _vocab
        fork = multiprocessing.get_context("fork")
        with fork.Pool() as pool:
            tokenized = pool.map(_tokenize, self.reviews)
            lengths = pool.map(_length, tokenized)
        words = (token for tokens, _ in tokenized for token in tokens)
        _vocab = nlp.Vocab(nlp.data.count_tokens(words), max_size=10_000)
        with fork.Pool() as pool:
            numbered = pool.map(_number, tokenized)
        sampler = nlp.data.FixedBucketSampler(lengths, 64, ratio=0.5, shuffle=True)
        pad = nlp.data.batchify.Pad(axis=0, pad_val=0, ret_length=True)
        make = nlp.data.batchify.Tuple(pad, nlp.data.batchify.Stack())
        batches = gluon.data.DataLoader(
            numbered, batch_sampler=sampler, batchify_fn=make
        )
        reviews = tokens = 0
        for (_, lengths), labels in batches:
            reviews += len(labels)
            tokens += int(lengths.asnumpy().sum())
        return reviews, tokens


class SelfAttentiveBiLSTM(gluon.nn.HybridBlock):
    """MXNet's own LSTM, and attention that sees padding as it sees words."""

    def __init__(self, sizes):
        super().__init__()
        nn, u, hops = gluon.nn, sizes.hidden_size, sizes.attention_hops
        units, linear = sizes.attention_units, {"use_bias": False, "flatten": False}
        with self.name_scope():
            self.embedding = nn.Embedding(sizes.vocab_size, sizes.embedding_size)
            ways = {"bidirectional": True, "dropout": sizes.dropout}
            ways |= {"input_size": sizes.embedding_size}
            self.lstm = gluon.rnn.LSTM(u, sizes.num_layers, **ways)
            self.w_s1 = nn.Dense(units, "tanh", in_units=2 * u, **linear)
            self.w_s2 = nn.Dense(hops, in_units=units, **linear)
            units = sizes.classifier_units
            self.hidden = nn.Dense(units, "relu", in_units=hops * 2 * u)
            self.output = nn.Dense(5, in_units=units)
            self.dropout = nn.Dropout(sizes.dropout)
            self.embedding_dropout = nn.Dropout(sizes.embedding_dropout)

    def hybrid_forward(self, F, tokens):
        vectors = self.embedding_dropout(self.embedding(tokens))  # (B, T, d)
        hidden = self.lstm(F.transpose(vectors, axes=(1, 0, 2)))  # (T, B, 2u)
        hidden = F.transpose(hidden, axes=(1, 0, 2))  # (B, T, 2u)
        scores = F.transpose(self.w_s2(self.w_s1(hidden)), axes=(0, 2, 1))  # (B, r, T)
        attention = F.softmax(scores, axis=-1)
        embedding = F.flatten(F.batch_dot(attention, hidden))  # (B, 2ur)
        hidden = self.hidden(self.dropout(embedding))
        return self.output(self.dropout(hidden)), attention


class TrainingStep:
    """The tutorial's loop on one batch.

    It reads the loss, the norm of the gradient and the predictions at every step.
    """

    def build(self, setting):
        """Begin anew with this setting."""
        self.config = config = setting.config
        self.model = SelfAttentiveBiLSTM(setting.model)
        self.model.initialize()
        parameters = self.model.collect_params().values()
        weights = setting.weights().values()
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.set_data(nd.array(weight))
        if not config.train_embedding:
            self.model.embedding.collect_params().setattr("grad_req", "null")
        self.model.hybridize()
        self.trained = [p for p in parameters if p.grad_req != "null"]
        adam = {"learning_rate": config.learning_rate}
        self.trainer = gluon.Trainer(self.model.collect_params(), "adam", adam)
        tokens, labels = setting.batch()
        self.tokens, self.labels = nd.array(tokens), nd.array(labels)
        self.class_weights = nd.array(config.class_weights or [1.0] * 5)

    def step(self):
        with mx.autograd.record():
            logits, attention = self.model(self.tokens)
            labels = nd.one_hot(self.labels, 5) * self.class_weights
            loss = -nd.sum(nd.log_softmax(logits) * labels, axis=-1)
            transposed = nd.transpose(attention, axes=(0, 2, 1))
            overlap = nd.batch_dot(attention, transposed) - nd.eye(attention.shape[1])
            penalty = overlap.norm(axis=(1, 2))
            if self.config.penalty_form == "squared":
                penalty = penalty**2
            loss = (loss + self.config.penalty_coefficient * penalty).mean()
        loss.backward()
        gradients = [parameter.grad() for parameter in self.trained]
        norm = sum((gradient**2).sum() for gradient in gradients).sqrt().asscalar()
        if norm > self.config.clip_norm:
            for gradient in gradients:
                gradient[:] *= self.config.clip_norm / norm
        self.trainer.step(1)
        nd.softmax(logits).argmax(axis=1).asnumpy()
        return float(loss.asscalar())

    def run(self, steps):
        """Return the mean loss before each step: list of float."""
        losses = [self.step() for _ in range(steps)]
        nd.waitall()
        return losses
