"use strict";

const find = (id) => document.getElementById(id);
const waiting = [];
let secret = "";
let busy = false;

const made = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

const percent = (share) => `${(100 * share).toFixed(1)}%`;

const bars = (probabilities) => {
  const list = made("dl", undefined, "bars");
  // An object has names such as "7" in the order of their numbers.
  for (const [name, share] of Object.entries(probabilities).sort((a, b) => b[1] - a[1])) {
    const bar = made("span", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");
    bar.style.setProperty("--share", share);
    bar.append(made("i"));
    list.append(made("dt", name), bar, made("dd", percent(share)));
  }
  return list;
};

const answer = (found, several) => {
  const part = made("div");
  if (found.error) {
    part.append(made("p", `This image cannot be used: ${found.error}`, "bad"));
    return part;
  }
  if (several) part.append(made("p", `Head ${found.head}`, "muted"));
  part.append(made("p", found.class === null ? "none of the classes" : found.class || "no class", "answer"));
  part.append(bars(found.probabilities));
  if (found.novelty !== null) {
    const sentence = `Novelty ${found.novelty.toFixed(0)}: so many per cent of held-out images are nearer to the training images.`;
    part.append(made("p", sentence, "muted"));
  }
  return part;
};

const shown = (file) => {
  const item = made("li", undefined, "result");
  const picture = made("div");
  const image = made("img");
  image.alt = `Image ${file.name}`;
  image.addEventListener("error", () => picture.replaceChildren(made("span", "no preview", "muted")));
  const reader = new FileReader();
  reader.addEventListener("load", () => { image.src = reader.result; });
  reader.readAsDataURL(file);
  picture.append(image);
  const facts = made("div");
  facts.append(made("h2", file.name));
  item.append(picture, facts);
  find("results").prepend(item);
  return facts;
};

const ask = async (file, facts) => {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  let reply;
  try {
    reply = await fetch("predict?top=5", { method: "POST", body: file, headers });
  } catch {
    facts.append(made("p", "The server does not answer.", "bad"));
    return true;
  }
  let content = {};
  try {
    content = await reply.json();
  } catch {
    content = { error: `the server answered with status ${reply.status}` };
  }
  if (reply.status === 401) {
    find("token").hidden = false;
    find("secret").focus();
    find("status").textContent = "This server asks for a token.";
    return false;
  }
  const found = content.predictions || [];
  if (!found.length) facts.append(made("p", content.error, "bad"));
  for (const each of found) facts.append(answer(each, found.length > 1));
  return true;
};

const work = async () => {
  if (busy) return;
  busy = true;
  find("status").textContent = "";
  while (waiting.length) {
    const [file, facts] = waiting[0];
    const rest = waiting.length > 1 ? `, ${waiting.length - 1} more to come` : "";
    find("status").textContent = `Asking about ${file.name}${rest}`;
    if (!(await ask(file, facts))) break;
    waiting.shift();
    find("status").textContent = `Answered: ${file.name}`;
  }
  busy = false;
};

const take = (files) => {
  for (const file of files) waiting.push([file, shown(file)]);
  work();
};

const drop = find("drop");
find("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => drop.classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
find("token").addEventListener("submit", (event) => {
  event.preventDefault();
  secret = find("secret").value.trim();
  find("token").hidden = true;
  work();
});
