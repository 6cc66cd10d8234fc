"""Other ways to make one vector of a review, which attention is held against.

Each is a block of Gluon from word vectors or states (B, T, D) and the lengths n (B,) to
the review's vector (B, D'). All else is as in `model`: the word vectors, the BiLSTM,
dropout and the classifier, so that a difference in the scores is the encoder's. They
are for comparisons only: trained and scored with MXNet, not predicted with.
"""

from selfatt_lib.machinery.runtime import mx
from selfatt_lib.model import BiLSTM, SelfAttentiveBiLSTM

gluon, nn = mx.gluon, mx.gluon.nn


def mask(F, x, valid_length, value=0):
    """Put a value into all that stands at padding: (B, T, D)."""
    return F.SequenceMask(x, valid_length, True, value, axis=1)


class Mean(gluon.HybridBlock):
    """(x_1 + … + x_n) / n, as if each word had the attention 1 / n."""

    def hybrid_forward(self, F, x, valid_length):
        total = F.sum(mask(F, x, valid_length), axis=1)  # (B, D)
        return F.broadcast_div(total, F.expand_dims(F.cast(valid_length, "float32"), 1))


class Last(gluon.HybridBlock):
    """[→h_n, ←h_1]: what each direction knows when it has read all."""

    def hybrid_forward(self, F, H, valid_length):
        ahead, back = F.split(H, num_outputs=2, axis=2)  # (B, T, u) each
        ahead = F.SequenceLast(ahead, valid_length, True, axis=1)  # →h_n: (B, u)
        back = F.squeeze(F.slice_axis(back, axis=1, begin=0, end=1), axis=1)  # ←h_1
        return F.concat(ahead, back, dim=1)  # (B, 2u)


class Max(gluon.HybridBlock):
    """The largest of h_1, …, h_n in each of the 2u numbers: the paper's baseline."""

    def hybrid_forward(self, F, H, valid_length):
        return F.max(mask(F, H, valid_length, -1), axis=1)  # no state is below -1


class CNN(gluon.HybridBlock):
    """Convolution and max pooling (Kim, 2014): max_t relu(W [x_t-w/2, …] + b).

    `filters` of each width w: a window of w words has its middle, or what is right of
    it, at t. What it has before the first word and after the last are zeros.
    """

    widths = (3, 4, 5)

    def __init__(self, filters, input_size):
        super().__init__()
        with self.name_scope():
            self.convolutions = nn.HybridSequential()
            for width in self.widths:
                size = {"padding": width // 2, "in_channels": input_size}
                self.convolutions.add(
                    Convolution(filters, width, activation="relu", **size)
                )

    def hybrid_forward(self, F, x, valid_length):
        x = F.swapaxes(mask(F, x, valid_length), 1, 2)  # (B, E, T)
        found = []
        for convolution in self.convolutions:
            y = convolution(x)  # (B, filters, T), or T + 1 where the width is even
            y = F.swapaxes(F.slice_like(y, x, axes=(2,)), 1, 2)  # (B, T, filters)
            found.append(F.max(mask(F, y, valid_length), axis=1))  # none is below 0
        return F.concat(*found, dim=1)  # (B, 3 · filters)


class Convolution(nn.Conv1D):
    """Gluon's, with a copy of its weight.

    To predict, MXNet stores the weight itself in another order, and then cannot train.
    """

    def hybrid_forward(self, F, x, weight, bias):
        return super().hybrid_forward(F, x, weight * 1, bias)


class EncoderClassifier(gluon.HybridBlock):
    """A review's vector m by one of `encoders`, and the paper's classifier on it.

    Parameters
    ----------
    encoder : {"average", "cnn", "last", "max", "uniform"}
        `Mean` of the word vectors; `CNN` over them; of the BiLSTM's states, `Last`,
        `Max`, or `Mean`, which is self-attention with all weights alike.
    sizes : ModelSettings
        Those of `model.SelfAttentiveBiLSTM`, of which attention has its own.

    Inputs
    ------
    tokens : NDArray of int32, shape (B, T)
    valid_length : NDArray of int32, shape (B,)

    Returns
    -------
    logits : NDArray, shape (B, C)
    embedding : NDArray, shape (B, D')
        m.
    """

    def __init__(self, encoder, sizes):
        super().__init__()
        words, u = sizes.embedding_size, sizes.hidden_size
        with self.name_scope():
            self.embedding = nn.Embedding(sizes.vocab_size, words)
            self.layers = nn.HybridSequential()
            if encoder not in ("average", "cnn"):
                for layer in range(sizes.num_layers):
                    self.layers.add(BiLSTM(u, 2 * u if layer else words))
            encoders = {"cnn": lambda: CNN(u, words), "last": Last, "max": Max}
            self.encoder = encoders.get(encoder, Mean)()
            width = {"average": words, "cnn": len(CNN.widths) * u}.get(encoder, 2 * u)
            self.hidden = nn.Dense(
                sizes.classifier_units, activation="relu", in_units=width
            )
            self.output = nn.Dense(sizes.num_classes, in_units=sizes.classifier_units)
            self.dropout = nn.Dropout(sizes.dropout)
            self.embedding_dropout = nn.Dropout(sizes.embedding_dropout)
        if not sizes.train_embedding:
            self.embedding.collect_params().setattr("grad_req", "null")

    named_parameters = SelfAttentiveBiLSTM.named_parameters

    def hybrid_forward(self, F, tokens, valid_length):
        # word vectors: (B, T, E)
        hidden = self.embedding_dropout(self.embedding(tokens))
        for number, layer in enumerate(self.layers):
            if number:
                hidden = self.dropout(hidden)
            hidden = layer(hidden, valid_length)  # (B, T, 2u)
        embedding = self.encoder(hidden, valid_length)  # m: (B, D')
        units = self.hidden(self.dropout(embedding))  # (B, classifier_units)
        return self.output(self.dropout(units)), embedding
