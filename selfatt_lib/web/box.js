// A trained run in a page: what is typed is split into words, read and shaded here, and
// sent nowhere. The model is that of selfatt_lib/reference.py and has its names: n words,
// u units of a direction, r hops. Matrices are flat, row after row.
"use strict";
(() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const BOXES = document.querySelectorAll(".selfatt-box");
  const LONGEST_WORD = 300;
  const CHOICES = [
    "The food was great, but the service was not.", "The plot is thin, but the actors are superb!",
    "It is not bad at all.", "The battery lasts two days.", "I returned it after a week.",
  ];
  const STRONGEST = 0.54; // of the orange behind a word, which stays readable
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
      return join([...before, ...(cases.get(word) ?? (isOne ? [word] : split(word))), ...after]);
    };
  }

  // From words to probabilities

  function bilstm(x, n, layer, weights) { // equations (2) to (4): (n, input) to (n, 2u)
    const u = weights[`layers.${layer}.forward_lstm.h2h_weight`].length ** 0.5 / 2;
    const size = x.length / n, H = new Float32Array(n * 2 * u), sums = new Float32Array(4 * u);
    for (const [place, direction] of ["forward", "backward"].entries()) {
      const [W_x, W_h, b_x, b_h] = ["i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"]
        .map(name => weights[`layers.${layer}.${direction}_lstm.${name}`]);
      const h = new Float32Array(u), c = new Float32Array(u);
      for (let step = 0; step < n; step++) {
        const t = place ? n - 1 - step : step;
        for (let k = 0; k < 4 * u; k++) {
          let sum = b_x[k] + b_h[k];
          for (let j = 0; j < size; j++) sum += W_x[k * size + j] * x[t * size + j];
          for (let j = 0; j < u; j++) sum += W_h[k * u + j] * h[j];
          sums[k] = sum;
        }
        for (let j = 0; j < u; j++) { // gates i, f, g, o
          c[j] = sigmoid(sums[u + j]) * c[j] + sigmoid(sums[j]) * Math.tanh(sums[2 * u + j]);
          h[j] = sigmoid(sums[3 * u + j]) * Math.tanh(c[j]);
        }
        H.set(h, t * 2 * u + place * u);
      }
    }
    return H;
  }

  const sigmoid = x => 1 / (1 + Math.exp(-x));

  function softmax(x) {
    const highest = Math.max(...x), powers = Array.from(x, each => Math.exp(each - highest));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map(power => power / sum);
  }

  // W x, where x has as many numbers as a row of W
  const times = (W, x) => columns(W.length / x.length, row => {
    let sum = 0;
    for (let j = 0; j < x.length; j++) sum += W[row * x.length + j] * x[j];
    return sum;
  });
  const columns = (length, each) => Array.from({ length }, (_, j) => each(j));
  const plus = (x, b) => x.map((each, i) => each + b[i]);

  function forward(numbers, { weights, shapes, pooling }) {
    const n = numbers.length, E = shapes["embedding.weight"][1];
    let H = new Float32Array(n * E);
    const row = (matrix, width, i) => matrix.subarray(i * width, (i + 1) * width);
    numbers.forEach((number, t) => H.set(row(weights["embedding.weight"], E, number), t * E));
    for (let layer = 0; `layers.${layer}.forward_lstm.h2h_weight` in weights; layer++) {
      H = bilstm(H, n, layer, weights);
    }
    const width = H.length / n, rows = numbers.map((_, t) => row(H, width, t));
    // equation (6): A = softmax(W_s2 tanh(W_s1 Hᵀ)), (r, n)
    const W_s1 = weights["attention.w_s1.weight"], W_s2 = weights["attention.w_s2.weight"];
    const scores = rows.map(h => times(W_s2, times(W_s1, h).map(Math.tanh))); // (n, r)
    const attention = scores[0].map((_, hop) => softmax(scores.map(score => score[hop])));
    // equation (7): M = AH, (r, 2u)
    const M = attention.map(a => columns(width, j => rows.reduce((sum, h, t) => sum + a[t] * h[j], 0)));
    const units = classify(M, weights, pooling).map(x => Math.max(x, 0)); // ReLU
    const logits = plus(times(weights["output.weight"], units), weights["output.bias"]);
    return { attention, logits, probabilities: softmax(logits) };
  }

  function classify(M, weights, pooling) {
    const sides = M[0].map((_, j) => M.map(row => row[j])); // Mᵀ
    if (pooling === "prune") return [...prune(M, weights, "row"), ...prune(sides, weights, "column")];
    const mean = side => side.reduce((a, b) => a + b, 0) / side.length;
    const m = pooling === "mean" ? sides.map(mean) : M.flat();
    return plus(times(weights["hidden.weight"], m), weights["hidden.bias"]);
  }

  function prune(M, weights, side) { // appendix A: p units for each row, or for each column
    const W = weights[`hidden.${side}_weight`], b = weights[`hidden.${side}_bias`];
    const p = b.length / M.length;
    return M.flatMap((m, row) => columns(p, k =>
      m.reduce((sum, x, j) => sum + x * W[(row * m.length + j) * p + k], b[row * p + k])));
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
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
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
      const pieces = tokenize(Array.from(word.slice(0, 2 * LONGEST_WORD)).slice(0, LONGEST_WORD).join(""))
        .slice(0, left);
      if (!pieces.length) break;
      found.push(pieces);
      left -= pieces.length;
    }
    return found;
  }

  function answer(tokens, model) {
    const read = tokens.map(token => model.lower ? token.toLowerCase() : token);
    const known = read.map(token => model.numbers.has(token));
    return { tokens: read, known, ...forward(read.map(token => model.numbers.get(token) ?? 0), model) };
  }

  let loading;
  function load() { // once, for all boxes of a page
    loading ??= new Promise((resolve, reject) => {
      selfatt.take = model => { try { resolve(unpack(model)); } catch (error) { reject(error); } };
      const script = document.createElement("script");
      script.src = folder + "model.js";
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

  function named(label, labels) {
    const areStars = labels.length === 5 && labels.every((each, i) => each === i + 1);
    return areStars ? `${label} star${label > 1 ? "s" : ""}` : String(label);
  }

  function shaded(tag, { piece }, weight, highest, known, attributes = {}) {
    const shade = (STRONGEST * weight / highest).toFixed(3);
    const look = { class: known ? "piece" : "piece unknown", style: `--a: ${shade}` };
    return make(tag, { ...look, ...attributes }, piece);
  }

  function build(box, model) {
    const { labels } = model, id = `selfatt-text-${[...BOXES].indexOf(box)}`;
    const area = make("textarea", { id, rows: 2, spellcheck: "false" });
    const choices = CHOICES.map(text => make("option", {}, text));
    const choice = make("select", { "aria-label": "or choose one" }, make("option", { value: "" }, "or choose one"), ...choices);
    area.value = box.dataset.text ?? CHOICES[0];
    const said = make("p", { class: "said", role: "status" });
    const chances = make("table", { class: "chances" });
    const line = make("p", { class: "line" }), lines = make("div", {});
    const all = make("button", { type: "button" }, "Leave out each word in turn");
    const hops = make("details", {}, make("summary", {}, "hop by hop"), lines);
    box.replaceChildren(
      make("label", { for: id }, "Type a sentence:"), area, choice, said, chances, line,
      make("p", { class: "note" }, "Shaded is how much attention a word gets, summed over the hops. "
        + "Press a word to leave it out. A dotted line: the model does not know the word."),
      all, hops, make("p", { class: "note" }, model.about.calibration ?? ""));
    let pieces = [], without = new Set(), changes = [];

    function read() {
      pieces = words(area.value, model).flatMap((word, i) =>
        word.map((piece, k) => ({ piece, begins: i > 0 && k === 0 })));
      without = new Set();
      changes = [];
      show();
    }

    // the places of the words that are not left out, and what the model makes of them
    const kept = () => pieces.flatMap((_, i) => without.has(i) ? [] : [i]);
    const answerTo = places => answer(places.map(i => pieces[i].piece), model);
    const best = ({ probabilities }) => probabilities.indexOf(Math.max(...probabilities));
    const spaced = (places, each) => places.flatMap(i => pieces[i].begins ? [" ", each(i)] : [each(i)]);

    function show() {
      const places = kept();
      all.hidden = hops.hidden = chances.hidden = !places.length;
      if (!places.length) {
        said.textContent = pieces.length ? "All words are left out." : "Nothing to read yet.";
        line.replaceChildren(...spaced([...pieces.keys()], i => button(i)));
        return;
      }
      const found = answerTo(places), label = best(found), at = new Map(places.map((i, t) => [i, t]));
      const missing = [...without].map(i => `“${pieces[i].piece}”`).join(", ");
      said.textContent = `${named(labels[label], labels)}, with a probability of `
        + percent(found.probabilities[label]) + (missing && ` without ${missing}`) + "."
        + (pieces.length === model.max_tokens ? ` No more than ${model.max_tokens} words are read.` : "")
        + (changes.length ? " Below each word: by how many points that changes without it." : "");
      chances.replaceChildren(make("caption", {}, "Probability of each answer"),
        ...labels.map((name, i) => make("tr", {}, make("th", { scope: "row" }, named(name, labels)),
          make("td", {}, make("span", { class: "bar", style: `--p: ${found.probabilities[i].toFixed(3)}` }),
            percent(found.probabilities[i])))));
      const sums = places.map((_, t) => found.attention.reduce((sum, hop) => sum + hop[t], 0));
      line.replaceChildren(...spaced([...pieces.keys()], i => at.has(i)
        ? button(i, sums[at.get(i)], Math.max(...sums), found.known[at.get(i)], found.attention.length)
        : button(i)));
      lines.replaceChildren(...found.attention.map((hop, k) =>
        make("p", { class: "line" }, make("span", { class: "hop" }, `hop ${k + 1} `), ...spaced(places, i =>
          shaded("mark", pieces[i], hop[at.get(i)], Math.max(...hop), found.known[at.get(i)])))));
    }

    function button(i, weight = 0, highest = 1, known = true, r = 1) {
      const out = without.has(i);
      const says = `${pieces[i].piece}: ${out ? "left out" : `${percent(weight / r)} of the attention`}`;
      const each = shaded("button", pieces[i], weight, highest, known,
        { type: "button", "aria-pressed": out, "aria-label": says, title: says });
      if (!out && changes[i] !== undefined) each.append(make("small", {}, changes[i]));
      each.onclick = () => {
        out ? without.delete(i) : without.add(i);
        changes = [];
        show();
        line.querySelectorAll("button")[i].focus();
      };
      return each;
    }

    all.onclick = () => { // how the probability of the answer changes, in points
      const places = kept(), whole = answerTo(places), label = best(whole);
      for (const i of places.length > 1 ? places : []) {
        const rest = answerTo(places.filter(other => other !== i));
        const change = Math.round(100 * (rest.probabilities[label] - whole.probabilities[label]));
        changes[i] = change > 0 ? `+${change}` : String(change).replace("-", "−");
      }
      show();
    };
    area.oninput = () => requestAnimationFrame(read);
    choice.onchange = () => {
      area.value = choice.value || area.value;
      read();
    };
    read();
  }

  function begin(box) {
    load().then(model => build(box, model)).catch(error => {
      const says = `The model cannot be shown: ${error.message}. Is model.js there and whole, and the browser of today?`;
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
