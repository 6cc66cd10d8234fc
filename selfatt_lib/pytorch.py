"""The model and the objective of Lin et al. (2017) in PyTorch: the twin of `model`.

The letters are the paper's, as in `reference`: H holds the LSTM's states, A the
attention, M = AH the sentence embedding; B reviews, T tokens of the longest, n of one.
"""

import re

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence

from selfatt_lib.config import PenaltyForm, check_pooling


class BiLSTM(nn.Module):
    """Equations (2) to (4): a bidirectional LSTM that lets no padding into a review.

    cuDNN reads packed sequences, which have no padding. On other devices PyTorch would
    read them a word at a time; there the backward direction reads each review reversed
    within its own length.

    Parameters
    ----------
    hidden_size : int
        u, the units of each direction.
    input_size : int
    """

    def __init__(self, hidden_size, input_size):
        super().__init__()
        self.lstm = nn.LSTM(
            input_size, hidden_size, batch_first=True, bidirectional=True
        )

    def forward(self, inputs, valid_length):
        """From (B, T, input_size) and lengths (B,) on the CPU to H (B, T, 2u)."""
        # never in bfloat16: for that, PyTorch gives cuDNN float16, of less range
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.float()
            if valid_length.min() == inputs.shape[1]:  # nothing is padded
                return self.lstm(inputs)[0]
            way = self.packed if inputs.is_cuda else self.reversed
            return way(inputs, valid_length)

    def packed(self, inputs, valid_length):
        """Read the words of all reviews, and no padding: all first words, all second.

        PyTorch's `pack_padded_sequence` and its inverse do the same with more copies,
        and wait for the GPU to give the order of the reviews back.
        """
        B, T, _ = inputs.shape
        n, order = valid_length.long().sort(descending=True)  # longest first, as cuDNN
        word = torch.arange(int(n[0]))[:, None]  # (n_max, 1)
        place = (order * T + word)[word < n]  # of each in the B * T of the batch
        place = to_device(place, inputs.device)
        words = inputs.flatten(0, 1).index_select(0, place)  # (words, input_size)
        states = self.lstm(PackedSequence(words, (word < n).sum(dim=1)))[0].data
        padded = states.new_zeros(B * T, states.shape[1])
        return padded.index_copy(0, place, states).view(B, T, -1)

    def reversed(self, inputs, valid_length):
        """Read all reviews from the left, and once more each from its own end."""
        place = torch.arange(inputs.shape[1])
        n = valid_length[:, None]  # (B, 1)
        from_end = torch.where(place < n, n - 1 - place, place)
        from_end = to_device(from_end, inputs.device)
        rows = torch.arange(len(inputs), device=inputs.device)[:, None]
        ahead = self.one_way(inputs, "")  # (B, T, u)
        back = self.one_way(inputs[rows, from_end], "_reverse")
        return torch.cat([ahead, back[rows, from_end]], dim=2)  # (B, T, 2u)

    def one_way(self, inputs, suffix):
        """Compute one direction from the left; its weights have names that end so."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = [getattr(self.lstm, name + suffix) for name in names]
        start = inputs.new_zeros(1, len(inputs), self.lstm.hidden_size)
        # biases, one layer, no dropout, one direction, batch first
        how = (True, 1, 0.0, self.training, False, True)
        return torch.lstm(inputs, (start, start), weights, *how)[0]


class SelfAttention(nn.Module):
    """Equations (6) and (7): A = softmax(W_s2 tanh(W_s1 Hᵀ)), M = AH.

    Parameters
    ----------
    units : int
        d_a, the rows of W_s1.
    hops : int
        r, the rows of W_s2.
    input_size : int
        2u.
    """

    def __init__(self, units, hops, input_size):
        super().__init__()
        self.w_s1 = nn.Linear(input_size, units, bias=False)
        self.w_s2 = nn.Linear(units, hops, bias=False)

    def forward(self, hidden, valid_length):
        """From H (B, T, 2u) to M (B, r, 2u) and A (B, r, T)."""
        scores = self.w_s2(torch.tanh(self.w_s1(hidden))).mT  # (B, r, T)
        padding = torch.arange(hidden.shape[1]) >= valid_length[:, None]  # (B, T)
        padding = to_device(padding, hidden.device)
        scores = scores.masked_fill(padding[:, None], -torch.inf)
        attention = torch.softmax(scores, dim=-1)  # (B, r, T)
        return attention @ hidden, attention  # M = AH: (B, r, 2u)


class PrunedLayer(nn.Module):
    """Appendix A: hidden units that each see one row or one column of M.

    Parameters
    ----------
    hops : int
        r, the rows of M.
    width : int
        2u, the columns of M.
    prune_p, prune_q : int
        Units for each row and for each column.
    """

    def __init__(self, hops, width, prune_p, prune_q):
        super().__init__()
        self.row_weight = nn.Parameter(torch.empty(hops, width, prune_p))
        self.row_bias = nn.Parameter(torch.empty(hops, 1, prune_p))
        self.column_weight = nn.Parameter(torch.empty(width, hops, prune_q))
        self.column_bias = nn.Parameter(torch.empty(width, 1, prune_q))

    def forward(self, embedding):
        """From M (B, r, 2u) to (B, r * p + 2u * q)."""
        rows = embedding.transpose(0, 1) @ self.row_weight + self.row_bias  # (r, B, p)
        columns = embedding.permute(2, 0, 1) @ self.column_weight + self.column_bias
        parts = [part.transpose(0, 1).flatten(1) for part in (rows, columns)]
        return torch.cat(parts, dim=1)


class SelfAttentiveBiLSTM(nn.Module):
    """Figure 1 of Lin et al. (2017): words → H → A, M → pooling → logits.

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
        How M enters the classifier: all of it; the mean of its rows; or all of it
        through a `PrunedLayer`.
    prune_p, prune_q : int, optional
        Needed by "prune": units for each row and each column of M.
    dropout : float, default 0.5
        Share of units dropped between the LSTM layers and on both sides of the
        classifier's hidden layer.
    embedding_dropout : float, default 0.0
        Share of the word vectors' numbers dropped.
    train_embedding : bool, default True
        False freezes the word vectors.

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
    ):
        super().__init__()
        check_pooling(pooling, prune_p, prune_q)
        width = 2 * hidden_size
        self.pooling = pooling
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.layers = nn.ModuleList(
            BiLSTM(hidden_size, width if layer else embedding_size)
            for layer in range(num_layers)
        )
        self.attention = SelfAttention(attention_units, attention_hops, width)
        if pooling == "prune":
            self.hidden = PrunedLayer(attention_hops, width, prune_p, prune_q)
            classifier_units = attention_hops * prune_p + width * prune_q
        else:
            rows = 1 if pooling == "mean" else attention_hops
            self.hidden = nn.Linear(rows * width, classifier_units)
        self.output = nn.Linear(classifier_units, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        for name, weight in self.named_parameters():  # as Gluon does
            (nn.init.zeros_ if "bias" in name else nn.init.xavier_uniform_)(weight)
        self.embedding.weight.requires_grad = train_embedding

    def forward(self, tokens, valid_length):
        """Return the logits (B, C) and A (B, r, T).

        Parameters
        ----------
        tokens : Tensor of int, shape (B, T)
            Word numbers; what stands beyond a review's length is ignored.
        valid_length : Tensor of int, shape (B,)
            From 1 to T. On the CPU, whatever the model is on.
        """
        hidden = self.embedding_dropout(self.embedding(tokens))  # (B, T, E)
        for number, layer in enumerate(self.layers):
            if number:
                hidden = self.dropout(hidden)
            hidden = layer(hidden, valid_length)  # H: (B, T, 2u)
        embedding, attention = self.attention(hidden, valid_length)  # M, A
        if self.pooling == "mean":
            embedding = embedding.mean(dim=1)  # (B, 2u)
        elif self.pooling == "flatten":
            embedding = embedding.flatten(1)  # (B, r * 2u)
        units = torch.relu(self.hidden(self.dropout(embedding)))  # (B, b)
        return self.output(self.dropout(units)), attention

    def named_weights(self):
        """Return the parameters under their names in `reference`: dict."""
        return {in_reference(name): p for name, p in self.named_parameters()}


def in_reference(name):
    """Return what `reference` calls a parameter.

    >>> in_reference("layers.0.lstm.weight_ih_l0_reverse")
    'layers.0.backward_lstm.i2h_weight'
    """
    lstm = re.fullmatch(r"(.*)\.lstm\.(weight|bias)_(i|h)h_l0(_reverse)?", name)
    if not lstm:
        return name
    layer, kind, side, back = lstm.groups()
    return f"{layer}.{'backward' if back else 'forward'}_lstm.{side}2h_{kind}"


def diversity_penalty(attention, form="squared", valid_length=None):
    """Penalise hops that attend to the same tokens, equation (8): P = ‖AAᵀ − I‖²_F.

    Parameters
    ----------
    attention : Tensor, shape (B, r, T)
        A; each row sums to 1.
    form : {"squared", "norm", "mean_squared"}, default "squared"
        P; its root, the tutorial's; (P + n − r) / n², that of the authors' code.
    valid_length : Tensor, shape (B,), optional
        n of each review; all the tokens by default. Only "mean_squared" depends on it.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    ValueError
        Unknown form.

    Examples
    --------
    >>> diversity_penalty(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    tensor([2.])
    """
    if form not in PenaltyForm.__args__:
        forms = ", ".join(PenaltyForm.__args__)
        raise ValueError(f"form must be one of {forms}; got {form!r}")
    _, r, T = attention.shape
    apart = attention @ attention.mT - torch.eye(
        r, device=attention.device
    )  # (B, r, r)
    if form == "norm":
        return torch.linalg.vector_norm(apart, dim=(1, 2))  # (B,)
    P = (apart**2).sum(dim=(1, 2))  # (B,)
    if form == "mean_squared":
        n = T if valid_length is None else to_device(valid_length, P.device).to(P.dtype)
        return (P + n - r) / n**2
    return P


def to_device(tensor, device):
    """Copy a tensor of the CPU to a device, without waiting for the device's work."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from any other memory, CUDA may wait
    return tensor.to(device, non_blocking=True)


def objective(logits, attention, labels, valid_length, class_weights, config):
    """Return the loss of each review, (B,): weighted cross-entropy and penalty.

    `labels` count from 0; `class_weights` are a Tensor, or None; `config` says the
    penalty's form and coefficient.
    """
    loss = cross_entropy(logits, labels, class_weights, reduction="none")
    if coefficient := config.penalty_coefficient:
        form = config.penalty_form
        loss = loss + coefficient * diversity_penalty(attention, form, valid_length)
    return loss
