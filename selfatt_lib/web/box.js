// A trained run in a page: what is typed is split into words, read and shaded here, and
// sent nowhere. The model is that of selfatt_lib/reference.py and has its names: n
// words, u units of a direction, r hops. Weights are flat, row after row.
"use strict";
(() => {
  if (window.selfatt) return; // the script stands on the page twice
  const MODEL = document.currentScript.src.replace("box.js", "model.js");
  const BOXES = document.querySelectorAll(".selfatt-box");
  const LONGEST_WORD = 300;
  const STRONGEST = 0.54; // of the orange behind a word, which stays readable
  const CHOICES = [
    "The food was great, but the service was not.",
    "The plot is thin, but the actors are superb!",
    "It is not bad at all.",
    "The battery lasts two days.",
    "I returned it after a week.",
  ];
  // what Python's str.split takes for a word
  const WORD = /[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu;

  // From a text to words, by spaCy's rules, as its Tokenizer applies them

  function makeTokenizer(rules) {
    const [prefix, suffix, whole, url] = ["prefix", "suffix", "whole", "url"]
      .map(name => rules[name] && new RegExp(rules[name], "u"));
    const infix = rules.infix && new RegExp(rules.infix, "gu");
    const cases = new Map(rules.cases); // a word, and its tokens
    const joined = new Map(rules.joined.map(([marks, tokens]) => [marks.join(" "), tokens]));
    const longest = Math.max(1, ...rules.joined.map(([marks]) => marks.length));

    function split(word) { // at hyphens and the like
      const parts = [];
      let start = 0;
      for (const { 0: mark, index } of infix ? word.matchAll(infix) : []) {
        if (index === 0) continue;
        parts.push(word.slice(start, index), mark);
        start = index + mark.length;
      }
      return [...parts, word.slice(start)].filter(part => part);
    }

    function join(parts) { // a smiley's marks
      const found = [];
      for (let i = 0, size; i < parts.length; i += size) {
        size = Math.min(longest, parts.length - i);
        const marks = () => parts.slice(i, i + size).join(" ");
        while (size > 1 && !joined.has(marks())) size -= 1;
        found.push(...(size > 1 ? joined.get(marks()) : [parts[i]]));
      }
      return found;
    }

    return function tokenize(word) {
      const before = [], after = [];
      let size = -1;
      while (word && word.length !== size && !whole?.test(word) && !cases.has(word)) {
        size = word.length;
        const first = prefix?.exec(word)?.[0] ?? "", rest = word.slice(first.length);
        const last = suffix?.exec(rest)?.[0] ?? "", left = word.slice(0, size - last.length);
        const [at, end] = first && cases.has(rest) ? [first.length, size]
          : last && cases.has(left) ? [0, left.length]
          : [first.length, left.length];
        if (at) before.push(first);
        if (end < size) after.unshift(last);
        word = word.slice(at, end);
      }
      const isOne = whole?.test(word) || url?.test(word);
      const middle = cases.get(word) ?? (isOne ? [word] : split(word));
      return join([...before, ...middle, ...after]);
    };
  }

  // From words to probabilities: H are n rows of 2u, A is r rows of n, M is r rows of 2u

  function forward(numbers, { weights, shapes, pooling }) {
    const H = states(numbers, weights, shapes["embedding.weight"][1]);
    const A = attention(H, weights), sides = transposed(H);
    // equation (7): M = AH
    const M = A.map(a => sides.map(h => sum(h.map((x, t) => a[t] * x))));
    const logits = classify(M, weights, pooling);
    return { attention: A, logits, probabilities: softmax(logits) };
  }

  function states(numbers, weights, E) {
    const vectors = weights["embedding.weight"];
    let H = numbers.map(number => vectors.subarray(number * E, (number + 1) * E));
    for (let layer = 0; `layers.${layer}.forward_lstm.i2h_weight` in weights; layer++) {
      const ahead = lstm(H, weights, `layers.${layer}.forward_lstm.`);
      const back = lstm([...H].reverse(), weights, `layers.${layer}.backward_lstm.`);
      H = ahead.map((h, t) => Float32Array.of(...h, ...back.at(-1 - t)));
    }
    return H;
  }

  function lstm(x, weights, name) { // equations (2) to (4), in one direction
    const [W_x, W_h, b_x, b_h] = ["i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"]
      .map(each => weights[name + each]);
    const u = b_x.length / 4, b = plus(b_x, b_h);
    let h = new Float32Array(u), c = h;
    return x.map(x_t => {
      const sums = plus(plus(times(W_x, x_t), times(W_h, h)), b);
      const [i, f, g, o] = [0, 1, 2, 3].map(k => sums.subarray(k * u, (k + 1) * u));
      c = c.map((old, j) => sigmoid(f[j]) * old + sigmoid(i[j]) * Math.tanh(g[j]));
      return h = c.map((now, j) => sigmoid(o[j]) * Math.tanh(now));
    });
  }

  function attention(H, weights) { // equation (6): A = softmax(W_s2 tanh(W_s1 Hᵀ))
    const W_s1 = weights["attention.w_s1.weight"], W_s2 = weights["attention.w_s2.weight"];
    return transposed(H.map(h => times(W_s2, times(W_s1, h).map(Math.tanh)))).map(softmax);
  }

  function classify(M, weights, pooling) {
    const mean = () => transposed(M).map(side => sum(side) / side.length);
    const m = pooling === "mean" ? mean() : M.flat();
    const units = pooling === "prune"
      ? [...prune(M, weights, "row"), ...prune(transposed(M), weights, "column")]
      : plus(times(weights["hidden.weight"], m), weights["hidden.bias"]);
    const active = units.map(x => Math.max(x, 0)); // ReLU
    return plus(times(weights["output.weight"], active), weights["output.bias"]);
  }

  function prune(M, weights, side) { // appendix A: p units for each row, or for each column
    const W = weights[`hidden.${side}_weight`], b = weights[`hidden.${side}_bias`];
    const p = b.length / M.length;
    return [...b].map((bias, k) => {
      const row = Math.floor(k / p), m = M[row];
      return bias + sum(m.map((x, j) => x * W[(row * m.length + j) * p + k % p]));
    });
  }

  function times(W, x) { // W x: W is flat, and a row has as many numbers as x
    const y = new Float32Array(W.length / x.length);
    for (let i = 0, at = 0; i < y.length; i++) {
      let total = 0;
      for (let j = 0; j < x.length; j++) total += W[at++] * x[j];
      y[i] = total;
    }
    return y;
  }

  const sum = x => x.reduce((a, b) => a + b, 0);
  const plus = (x, y) => x.map((each, i) => each + y[i]);
  const transposed = rows => Array.from(rows[0], (_, j) => rows.map(row => row[j]));
  const sigmoid = x => 1 / (1 + Math.exp(-x));

  function softmax(x) {
    const highest = Math.max(...x), powers = Array.from(x, each => Math.exp(each - highest));
    const total = sum(powers);
    return powers.map(power => power / total);
  }

  // The run, as model.js gives it

  function unpack(model) {
    const bytes = Uint8Array.from(atob(model.weights), each => each.charCodeAt(0));
    const halves = new Uint16Array(bytes.buffer), weights = {};
    let at = 0;
    for (const [name, shape] of Object.entries(model.shapes)) {
      const size = shape.reduce((a, b) => a * b, 1);
      weights[name] = Float32Array.from(halves.subarray(at, at += size), half);
    }
    if (at !== halves.length) throw new Error("its numbers are not all there");
    const tokenize = makeTokenizer(model.rules);
    const numbers = new Map(model.words.map((word, number) => [word, number]));
    return { ...model, weights, tokenize, numbers };
  }

  function half(bits) { // a number of 16 bits: sign, exponent, fraction
    const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (!exponent) return sign * 2 ** -24 * fraction;
    return sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
  }

  // Words as the model reads them: [pieces of each word]; and what it makes of them

  function words(text, { tokenize, max_tokens, unescape_html }) {
    if (unescape_html) {
      const area = document.createElement("textarea"); // whose content is never run
      area.innerHTML = text.replace(/<br\s*\/?>|<\/?p>/giu, "\n").replace(/</gu, "&lt;");
      text = area.value;
    }
    const found = [];
    let left = max_tokens;
    for (const [word] of text.matchAll(WORD)) {
      const letters = Array.from(word.slice(0, 2 * LONGEST_WORD)).slice(0, LONGEST_WORD);
      const pieces = tokenize(letters.join("")).slice(0, left);
      if (!pieces.length) break;
      found.push(pieces);
      left -= pieces.length;
    }
    return found;
  }

  function answer(tokens, model) {
    const read = tokens.map(token => model.lower ? token.toLowerCase() : token);
    const known = read.map(token => model.numbers.has(token));
    const numbers = read.map(token => model.numbers.get(token) ?? 0);
    return { tokens: read, known, ...forward(numbers, model) };
  }

  let loading;
  function load() { // once, for all boxes of a page
    loading ??= new Promise((resolve, reject) => {
      selfatt.take = model => { try { resolve(unpack(model)); } catch (error) { reject(error); } };
      const script = document.createElement("script");
      script.src = MODEL;
      script.onload = () => reject(new Error("it does not hold a model")); // unless it was taken
      script.onerror = () => reject(new Error("it could not be read"));
      document.head.append(script);
    });
    return loading;
  }

  // The box: one for each element of the class selfatt-box, once it comes into view

  function make(tag, attributes, ...children) { // children are text, never markup
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const percent = x => `${Math.round(100 * x)} %`;

  function named(label, labels) { // as labels.are_stars
    const areStars = labels.includes(1) && labels.includes(5)
      && labels.every(each => [1, 2, 3, 4, 5].includes(each));
    return areStars ? `${label} star${label > 1 ? "s" : ""}` : String(label);
  }

  function shaded(tag, token, strength, attributes) { // strength: from 0 to 1
    const style = `--a: ${(STRONGEST * strength).toFixed(3)}`;
    const look = { class: token.known ? "piece" : "piece unknown", style };
    return make(tag, { ...look, ...attributes }, token.piece);
  }

  function build(box, model) {
    const { labels } = model, id = `selfatt-text-${[...BOXES].indexOf(box)}`;
    const area = make("textarea", { id, rows: 2, dir: "auto", spellcheck: "false" });
    area.value = box.dataset.text ?? CHOICES[0];
    const choice = make("select", { "aria-label": "or choose one" },
      make("option", { value: "" }, "or choose one"),
      ...CHOICES.map(text => make("option", {}, text)));
    const said = make("p", { class: "said", "aria-hidden": "true" }); // for eyes, at once
    const heard = make("p", { class: "heard", role: "status" }); // for ears, after a pause
    const chances = make("table", { class: "chances" });
    const line = make("p", { class: "line", dir: "auto" }), lines = make("div", {});
    const all = make("button", { type: "button" }, "Leave out each word in turn");
    const hops = make("details", {}, make("summary", {}, "hop by hop"), lines);
    box.replaceChildren(
      make("label", { for: id }, "Type a sentence:"), area, choice, said, heard, chances, line,
      make("p", { class: "note" }, "Shaded is how much attention a word gets, summed over "
        + "the hops. Press a word to leave it out. A dotted line: the model does not know "
        + "the word."),
      all, hops, make("p", { class: "note" }, model.about.calibration ?? ""));
    let tokens = [], clipped = false, pause; // a token: piece, gap, out, change, known, weight

    function read() {
      const found = words(area.value, { ...model, max_tokens: model.max_tokens + 1 })
        .flatMap(pieces => pieces.map((piece, k) => ({ piece, gap: k ? "" : " " })));
      clipped = found.length > model.max_tokens;
      tokens = found.slice(0, model.max_tokens);
      show(700);
    }

    const kept = () => tokens.filter(token => !token.out);
    const answerTo = some => answer(some.map(token => token.piece), model);

    function show(milliseconds = 0) {
      const some = kept();
      all.hidden = some.length < 2;
      hops.hidden = chances.hidden = !some.length;
      if (some.length) showAnswer(some, answerTo(some));
      else said.textContent = tokens.length ? "All words are left out." : "Nothing to read yet.";
      line.replaceChildren(...tokens.flatMap(token => [token.gap, button(token, some)]));
      clearTimeout(pause);
      pause = setTimeout(() => {
        if (heard.textContent !== said.textContent) heard.textContent = said.textContent;
      }, milliseconds);
    }

    function showAnswer(some, { attention, known, probabilities }) {
      some.forEach((token, t) => {
        token.known = known[t];
        token.weight = sum(attention.map(hop => hop[t])) / attention.length;
      });
      const highest = Math.max(...probabilities), label = labels[probabilities.indexOf(highest)];
      const missing = tokens.filter(token => token.out)
        .map(({ piece }) => `“${piece}”`).join(", ");
      said.textContent = `${named(label, labels)}, with a probability of ${percent(highest)}`
        + (missing && ` without ${missing}`) + "."
        + (clipped ? ` No more than ${model.max_tokens} words and marks are read.` : "")
        + (some[0].change
          ? " Below each word: by how many points that changes without it." : "");
      chances.replaceChildren(make("caption", {}, "Probability of each answer"),
        ...labels.map((name, i) => {
          const style = `--p: ${probabilities[i].toFixed(3)}`;
          const bar = make("span", { class: "bar", style });
          return make("tr", {}, make("th", { scope: "row" }, named(name, labels)),
            make("td", {}, bar, percent(probabilities[i])));
        }));
      lines.replaceChildren(...(hops.open ? attention : []).map((hop, k) =>
        make("p", { class: "line", dir: "auto" },
          make("span", { class: "hop", dir: "ltr" }, `hop ${k + 1}`),
          ...some.flatMap((token, t) =>
            [token.gap, shaded("mark", token, hop[t] / Math.max(...hop))]))));
    }

    function button(token, some) {
      const { piece, out, known, weight, change } = token;
      const says = out ? `${piece}: left out` : `${piece}: ${percent(weight)} of the attention`
        + (known ? "" : ", a word that the model does not know")
        + (change ? `, ${change} points without it` : "");
      const highest = Math.max(...some.map(each => each.weight));
      const each = shaded("button", token, out ? 0 : weight / highest,
        { type: "button", "aria-pressed": Boolean(out), "aria-label": says, title: says });
      if (change) each.append(make("small", {}, change));
      each.onclick = () => {
        token.out = !out;
        tokens.forEach(other => { other.change = ""; });
        show();
        line.children[tokens.indexOf(token)].focus();
      };
      return each;
    }

    all.onclick = () => { // how the probability of the answer changes, in points
      const some = kept(), { probabilities } = answerTo(some);
      const highest = Math.max(...probabilities);
      for (const token of some) {
        const rest = answerTo(some.filter(other => other !== token)).probabilities;
        const change = Math.round(100 * (rest[probabilities.indexOf(highest)] - highest));
        token.change = change > 0 ? `+${change}` : String(change).replace("-", "−");
      }
      show();
    };
    hops.ontoggle = () => show();
    area.oninput = read;
    choice.onchange = () => {
      area.value = choice.value || area.value;
      read();
    };
    read();
  }

  function begin(box) {
    load().then(model => build(box, model)).catch(error => {
      const says = `The model cannot be shown: ${error.message}. `
        + "Is model.js there and whole, and is the browser up to date?";
      box.replaceChildren(make("p", { role: "status" }, says));
    });
  }

  window.selfatt = { load, words, answer, makeTokenizer };
  const watch = new IntersectionObserver(seen => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      begin(target);
    }
  }, { rootMargin: "200px" });
  BOXES.forEach(box => watch.observe(box));
})();
