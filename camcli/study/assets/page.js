
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const pairs = data.protocol === "pairs";
const RELIABLE = [[-2, "Left, clearly"], [-1, "Left, slightly"], [0, "No difference"],
  [1, "Right, slightly"], [2, "Right, clearly"]];
const FOCUS = [[1, "1: all over"], [2, "2"], [3, "3"], [4, "4"], [5, "5: one place"]];
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
let rater = "", answers = {}, current = 0, since = 0, keeps = true, saved = true;

const memory = {
  name: () => "camcli-study-" + data.study + "-" + rater,
  load() {
    try { return JSON.parse(localStorage.getItem(this.name()) || "{}"); } catch { return {}; }
  },
  store() {
    try { localStorage.setItem(this.name(), JSON.stringify(answers)); } catch { keeps = false; }
  },
};

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function figure(source, caption, alt) {
  const image = made("img", { src: source, alt });
  return made("figure", {}, image, made("figcaption", { textContent: caption }));
}

function choices(name, legend, options, keys) {
  const row = made("div", { className: "options" });
  row.style.setProperty("--columns", String(options.length));
  options.forEach(([value, text], number) => {
    const input = made("input", { type: "radio", name, value: String(value) });
    const key = made("kbd", { textContent: keys[number], ariaHidden: "true" });
    row.append(made("label", {}, input, made("span", { textContent: text }), key));
  });
  return made("fieldset", {}, made("legend", { textContent: legend }), row);
}

const questions = (item) => pairs
  ? [["value", "Which side seems more reliable?", RELIABLE, "12345"]]
  : [["class", "Which class do you see?", item.choices.map((c, n) => [n, c]), LETTERS],
     ["focus", "How focused is what is shown?", FOCUS, "12345"]];

const isDone = (item) =>
  questions(item).every(([name]) => (answers[item.id] || {})[name] !== undefined);

function tell() {
  const number = data.items.filter(isDone).length;
  at("bar").max = data.items.length;
  at("bar").value = number;
  at("progress").hidden = !rater;
  at("where").textContent = rater ? `${number} of ${data.items.length} answered` : "";
}

function section(name) {
  for (const id of ["welcome", "question", "done"]) at(id).hidden = id !== name;
  tell();
}

function show(number) {
  if (number >= data.items.length) {
    const open = data.items.findIndex((item) => !isDone(item));
    if (open < 0) {
      section("done");
      at("thanks").focus();
      return;
    }
    number = open;
  }
  current = number;
  since = performance.now();
  const item = data.items[current];
  const images = pairs
    ? [figure(item.images[0], "Left", "Heatmap on the left"),
       figure(item.photo, "Photo", "The photo without a heatmap"),
       figure(item.images[1], "Right", "Heatmap on the right")]
    : [figure(item.images[0], "What the heatmap leaves of the photo", "Parts of a photo")];
  at("pictures").className = data.protocol;
  at("pictures").replaceChildren(...images);
  const what = pairs ? `The prediction is “${item.label}”` : "What is left to see";
  at("asked").textContent = `${current + 1} of ${data.items.length}. ${what}`;
  at("answer").replaceChildren(...questions(item).map((q) => choices(...q)));
  const given = answers[item.id] || {};
  for (const input of at("answer").querySelectorAll("input")) {
    input.checked = String(given[input.name]) === input.value;
  }
  at("back").disabled = current === 0;
  at("next").disabled = !isDone(item);
  section("question");
  at("asked").focus();
}

function choose(name, value) {
  const item = data.items[current];
  const spent = Math.round(performance.now() - since);
  answers[item.id] = { ...answers[item.id], [name]: value, ms: spent };
  saved = false;
  memory.store();
  at("next").disabled = !isDone(item);
  remember();
  tell();
}

function remember() {
  at("memory").textContent = keeps
    ? "Your answers stay in this browser until you download them; you may stop and go on later."
    : "This browser keeps nothing: answer all questions and download before you close the page.";
}

function exported() {
  const list = data.items.filter((item) => answers[item.id])
    .map((item) => ({ item: item.id, ...answers[item.id] }));
  return { camcli_study: data.study, schema_version: 1, protocol: data.protocol, rater,
    exported: new Date().toISOString(), answers: list };
}

function download() {
  const text = JSON.stringify(exported(), null, 1);
  const link = made("a", { download: `answers-${data.study}-${rater.replace(/[^\w-]+/g, "_")}.json` });
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.click();
  saved = true;
}

at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = at("rater").value.trim();
  if (!rater) return;
  answers = memory.load();
  memory.store();
  remember();
  const open = data.items.findIndex((item) => !isDone(item));
  show(open < 0 ? data.items.length : open);
});
at("answer").addEventListener("submit", (event) => event.preventDefault());
at("answer").addEventListener("change", (event) =>
  choose(event.target.name, Number(event.target.value)));
at("next").addEventListener("click", () => show(current + 1));
at("back").addEventListener("click", () => show(current - 1));
at("again").addEventListener("click", () => show(0));
at("download").addEventListener("click", download);
addEventListener("beforeunload", (event) => {
  if (!saved && !keeps) event.preventDefault();
});
addEventListener("keydown", (event) => {
  if (at("question").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && event.target.tagName !== "BUTTON" && !at("next").disabled) {
    show(current + 1);
    event.preventDefault();
  } else if (key === "backspace" && current > 0) {
    show(current - 1);
  } else {
    for (const [name, , options, keys] of questions(data.items[current])) {
      const number = key.length === 1 ? keys.indexOf(key) : -1;
      if (number >= 0 && number < options.length) {
        choose(name, options[number][0]);
        const inputs = at("answer").querySelectorAll(`input[name=${name}]`);
        inputs[number].checked = true;
      }
    }
  }
});

at("instructions").append(...(pairs
  ? ["You see a photo between two heatmaps. Each shows where one of two classifiers, or methods, " +
     "found its reasons for the class that both name; the brighter, the more.",
     "Say which of the two seems more reliable, going by the heatmaps alone. There is no right answer."]
  : ["A classifier found its reasons for a class in parts of a photo. You see these parts; the rest " +
     "is gray.",
     "Say which class you see in them, and how focused they are. If you are not sure, guess."])
  .map((text) => made("p", { textContent: text })));
at("keys").textContent = pairs
  ? "Keys: 1 to 5 answer, Enter goes on, Backspace goes back."
  : "Keys: letters choose a class, 1 to 5 the focus, Enter goes on, Backspace goes back.";
try { localStorage.setItem("camcli-study", "1"); localStorage.removeItem("camcli-study"); }
catch { keeps = false; }
remember();
tell();
