"""The model of Lin et al. (2017) in Gluon: word vectors, LSTM, attention, classifier.

The letters are the paper's: H holds the LSTM's states, A the attention, M = AH the
sentence embedding; u is the hidden size of one direction, r the number of hops, which
are now called heads. B is the batch, T the tokens of its longest review; n, in the
book, are a review's own.
"""

from selfatt_lib.config import check_pooling
from selfatt_lib.machinery import lstm
from selfatt_lib.machinery.runtime import mx

gluon, nn, rnn = mx.gluon, mx.gluon.nn, mx.gluon.rnn


class BiLSTM(gluon.HybridBlock):
    """Equations (2) to (4): a bidirectional LSTM that lets no padding into a review.

    MXNet's own bidirectional LSTM ignores `valid_length` on a CPU (apache/mxnet#19323),
    and its backward direction then starts in the padding. Here the backward direction
    is a second LSTM that reads each review reversed within its own length. On a CPU,
    `lstm.bilstm` does the same with the same weights, faster.

    Parameters
    ----------
    hidden_size : int
        u, the units of each direction.
    input_size : int

    Inputs
    ------
    inputs : NDArray, shape (B, T, input_size)
    valid_length : NDArray, shape (B,)

    Returns
    -------
    NDArray, shape (B, T, 2u)
        What stands at padding is of no meaning; `SelfAttention` gives it no weight.

    Raises
    ------
    mxnet.MXNetError
        On a CPU, when the result is read: a length is not from 1 to T, or the arrays
        are not of float32.
    """

    def __init__(self, hidden_size, input_size, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.forward_lstm = rnn.LSTM(hidden_size, input_size=input_size)
            self.backward_lstm = rnn.LSTM(hidden_size, input_size=input_size)

    def is_on_cpu(self):
        """Tell whether all weights are on a CPU."""
        devices = self.forward_lstm.l0_i2h_weight.list_ctx()
        return all(device.device_type == "cpu" for device in devices)

    def weights(self, F, inputs):
        """Return the weights in the order of `lstm.bilstm`, on the inputs' device."""
        weights = self.collect_params().values()
        if F is mx.sym:
            return [weight.var() for weight in weights]
        return [weight.data(inputs.context) for weight in weights]

    def hybrid_forward(self, F, inputs, valid_length):
        if self.is_on_cpu():
            return lstm.bilstm(F, inputs, valid_length, self.weights(F, inputs))

        def reverse(sequence):
            return F.SequenceReverse(sequence, valid_length, use_sequence_length=True)

        inputs = F.swapaxes(inputs, 0, 1)  # (T, B, input_size)
        forward = self.forward_lstm(inputs)  # (T, B, u)
        backward = reverse(self.backward_lstm(reverse(inputs)))  # (T, B, u)
        return F.swapaxes(F.concat(forward, backward, dim=-1), 0, 1)  # (B, T, 2u)


class SelfAttention(gluon.HybridBlock):
    """Equations (6) and (7): A = softmax(W_s2 tanh(W_s1 Hᵀ)), M = AH.

    Each state is scored by itself, against weights that are the same for all reviews.
    A Transformer's self-attention compares the states with one another instead.

    Parameters
    ----------
    units : int
        d_a, the rows of W_s1.
    hops : int
        r, the rows of W_s2: how many different weightings of the tokens to learn.
    input_size : int, default 0
        2u; 0 finds it at the first call.

    Inputs
    ------
    hidden : NDArray, shape (B, T, 2u)
    valid_length : NDArray of int32, shape (B,)
        Real tokens in each review, from 1 to T.

    Returns
    -------
    embedding : NDArray, shape (B, r, 2u)
    attention : NDArray, shape (B, r, T)
        Each row sums to 1 over the real tokens and is exactly 0 on padding.
    """

    def __init__(self, units, hops, input_size=0, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.w_s1 = nn.Dense(
                units, in_units=input_size, use_bias=False, flatten=False
            )
            self.w_s2 = nn.Dense(hops, in_units=units, use_bias=False, flatten=False)

    def hybrid_forward(self, F, hidden, valid_length):
        units = F.Activation(self.w_s1(hidden), act_type="tanh")  # (B, T, d_a)
        scores = self.w_s2(units)  # (B, T, r)
        scores = F.transpose(scores, axes=(0, 2, 1))  # (B, r, T)
        # softmax wants one length for each row it normalises: (B, r)
        length = F.expand_dims(F.cast(valid_length, "int32"), 1)
        length = F.broadcast_like(length, scores, lhs_axes=(1,), rhs_axes=(1,))
        attention = F.softmax(scores, length, axis=-1, use_length=True)
        return F.batch_dot(attention, hidden), attention  # M = AH: (B, r, 2u)


class PrunedLayer(gluon.HybridBlock):
    """Appendix A: a hidden layer whose units each see one row or one column of M.

    Every row of M has `prune_p` units of its own, every column `prune_q`. That leaves
    ``r * 2u * (p + q)`` weights where a full layer of b units has ``r * 2u * b``.

    Parameters
    ----------
    hops : int
        r, the rows of M.
    width : int
        2u, the columns of M.
    prune_p, prune_q : int
        Units for each row and for each column.

    Inputs
    ------
    embedding : NDArray, shape (B, r, 2u)

    Returns
    -------
    NDArray, shape (B, r * prune_p + 2u * prune_q)
    """

    def __init__(self, hops, width, prune_p, prune_q, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.row_weight = self.params.get(
                "row_weight", shape=(hops, width, prune_p)
            )
            self.row_bias = self.params.get(
                "row_bias", shape=(hops, 1, prune_p), init="zeros"
            )
            self.column_weight = self.params.get(
                "column_weight", shape=(width, hops, prune_q)
            )
            self.column_bias = self.params.get(
                "column_bias", shape=(width, 1, prune_q), init="zeros"
            )

    def hybrid_forward(
        self, F, embedding, row_weight, row_bias, column_weight, column_bias
    ):
        rows = F.transpose(embedding, axes=(1, 0, 2))  # (r, B, 2u)
        rows = F.batch_dot(rows, row_weight)  # (r, B, p)
        rows = F.broadcast_add(rows, row_bias)
        columns = F.transpose(embedding, axes=(2, 0, 1))  # (2u, B, r)
        columns = F.batch_dot(columns, column_weight)  # (2u, B, q)
        columns = F.broadcast_add(columns, column_bias)
        # (B, r, p) and (B, 2u, q)
        parts = [F.transpose(part, axes=(1, 0, 2)) for part in (rows, columns)]
        # (B, r * p + 2u * q)
        return F.relu(F.concat(*map(F.flatten, parts), dim=-1))


class SelfAttentiveBiLSTM(gluon.HybridBlock):
    """Figure 1 of Lin et al. (2017): reviews classified by self-attentive embedding.

    Words → H (stacked `BiLSTM`) → A, M (`SelfAttention`) → pooling → logits. The result
    for a review does not depend on the reviews it is batched with, nor on how far it is
    padded.

    Parameters
    ----------
    vocab_size, embedding_size : int
        Rows and columns of the word vectors.
    hidden_size : int
        u, LSTM units of each direction.
    num_layers : int
        Stacked bidirectional layers.
    attention_units : int
        d_a of the paper.
    attention_hops : int
        r of the paper.
    classifier_units : int
        Units of the hidden layer between M and the logits; "prune" has a layer of its
        own there.
    num_classes : int, default 5
    pooling : {"flatten", "mean", "prune"}, default "flatten"
        How M enters the classifier: all of it; the mean of its rows, which leaves one
        weighting of the tokens; or all of it through a `PrunedLayer`.
    prune_p, prune_q : int, optional
        Needed by "prune": units for each row and each column of M.
    dropout : float, default 0.5
        Share of units dropped between the LSTM layers and on both sides of the
        classifier's hidden layer.
    embedding_dropout : float, default 0.0
        Share of the word vectors' numbers dropped; neither paper nor tutorial has it.
    train_embedding : bool, default True
        False freezes the word vectors, as the tutorial does.

    Inputs
    ------
    tokens : NDArray of int32, shape (B, T)
        Word numbers; what stands beyond a review's length is ignored.
    valid_length : NDArray of int32, shape (B,)
        From 1 to T.

    Returns
    -------
    logits : NDArray, shape (B, num_classes)
    attention : NDArray, shape (B, r, T)

    Raises
    ------
    ValueError
        Unknown `pooling`, or "prune" without its sizes.
    """

    def __init__(
        self,
        vocab_size,
        embedding_size,
        hidden_size,
        num_layers,
        attention_units,
        attention_hops,
        classifier_units,
        num_classes=5,
        pooling="flatten",
        prune_p=None,
        prune_q=None,
        dropout=0.5,
        embedding_dropout=0.0,
        train_embedding=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_pooling(pooling, prune_p, prune_q)
        width = 2 * hidden_size
        with self.name_scope():
            self.embedding = nn.Embedding(vocab_size, embedding_size)
            self.layers = nn.HybridSequential()
            for layer in range(num_layers):
                self.layers.add(BiLSTM(hidden_size, width if layer else embedding_size))
            self.attention = SelfAttention(attention_units, attention_hops, width)
            if pooling == "prune":
                self.hidden = PrunedLayer(attention_hops, width, prune_p, prune_q)
                units = attention_hops * prune_p + width * prune_q
            else:
                self.hidden = nn.Dense(
                    classifier_units,
                    activation="relu",
                    in_units=width * (attention_hops if pooling == "flatten" else 1),
                )
                units = classifier_units
            self.output = nn.Dense(num_classes, in_units=units)
            self.dropout = nn.Dropout(dropout)
            self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.pooling = pooling
        if not train_embedding:
            self.embedding.collect_params().setattr("grad_req", "null")

    def named_parameters(self):
        """Return the parameters under their names in `reference`: dict of Parameter."""
        # Gluon's fused LSTM files its weights under a layer that it would unfold into
        return {
            name.replace("_unfused.0.", ""): parameter
            for name, parameter in self._collect_params_with_prefix().items()
        }

    def hybrid_forward(self, F, tokens, valid_length):
        # word vectors: (B, T, embedding_size)
        hidden = self.embedding_dropout(self.embedding(tokens))
        for number, layer in enumerate(self.layers):
            if number:
                hidden = self.dropout(hidden)
            hidden = layer(hidden, valid_length)  # (B, T, 2u)
        # (B, r, 2u) and (B, r, T)
        embedding, attention = self.attention(hidden, valid_length)
        if self.pooling == "mean":
            embedding = F.mean(embedding, axis=1)  # (B, 2u)
        units = self.hidden(self.dropout(embedding))  # (B, classifier_units)
        logits = self.output(self.dropout(units))  # (B, num_classes)
        return logits, attention
