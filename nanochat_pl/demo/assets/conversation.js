// The conversation: draws props.value = {turns, welcome} into the log, changing only what has changed, so that folded
// tool calls and selections survive while an answer streams. Texts become text nodes, never HTML.
//   trigger("submit", {keep, text}): ask `text` after the first `keep` turns (also for retry and edit)
//   trigger("undo"): take back the last question and its answer

const log = element.querySelector(".log");
const views = []; // of each turn: {role, node, update(turn, isLast)}

const ask = (keep, text) => trigger("submit", { keep, text });

function action(name, act) {
  const node = make("button", `action ${name.toLowerCase()}`);
  Object.assign(node, { type: "button", title: name, ariaLabel: name, onclick: act });
  return node;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http beyond this machine has no clipboard API.
    const field = make("textarea", "", text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

function userView(index) {
  const bubble = make("div", "bubble");
  bubble.dataset.testid = "user";
  const copying = action("Copy", () => copy(bubble.textContent, copying));
  const actions = make("div", "actions", copying, action("Edit", edit));
  const node = make("article", "turn user", bubble, actions);

  function edit() {
    const field = make("textarea", "editor", bubble.textContent);
    const cancel = () => node.replaceChildren(bubble, actions);
    const send = () => {
      if (!field.value.trim()) return;
      cancel();
      ask(index, field.value);
    };
    field.ariaLabel = "Edit your message";
    field.onkeydown = (event) => {
      if (event.key === "Escape") cancel();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    };
    const buttons = make("div", "choices", make("button", "secondary", "Cancel"), make("button", "primary", "Send"));
    buttons.firstChild.onclick = cancel;
    buttons.lastChild.onclick = send;
    node.replaceChildren(field, buttons);
    field.style.height = `${Math.min(field.scrollHeight + 4, 320)}px`;
    field.focus();
  }

  return {
    role: "user",
    node,
    update(turn) {
      if (bubble.textContent !== turn.text) bubble.textContent = turn.text;
    },
  };
}

// A tool call and its result are one fold; each other part stands for itself.
function grouped(parts) {
  const groups = [];
  for (const { type, text } of parts) {
    const last = groups.at(-1);
    if (type === "text") groups.push({ type, text });
    else if (type === "python") groups.push({ type: "tool", call: text, result: null });
    else if (last?.type === "tool" && last.result === null) last.result = text;
    else groups.push({ type: "tool", call: "", result: text });
  }
  return groups;
}

function toolView() {
  const [title, call, result] = [make("code"), make("pre", "code"), make("pre", "code")];
  const node = make("details", "tool", make("summary", "", "Calculated ", title), make("span", "", "Call"), call);
  const results = [make("span", "", "Result"), result];
  return {
    node,
    update(group) {
      const short = group.call.trim().split("\n")[0].slice(0, 60);
      title.textContent = group.result === null ? short : `${short} → ${group.result.trim().slice(0, 40)}`;
      call.textContent = group.call;
      result.textContent = group.result ?? "";
      if (group.result !== null && !results[0].isConnected) node.append(...results);
    },
  };
}

function textView(plain) {
  const node = make("div", plain ? "text plain" : "text");
  return {
    node,
    update(group) {
      if (plain) node.textContent = group.text;
      else node.replaceChildren(renderMarkdown(group.text));
    },
  };
}

function answerView(index) {
  const [name, notice, parts] = [make("div", "name"), make("div", "notice"), make("div", "parts")];
  const [error, status] = [make("div", "error"), make("span", "status")];
  parts.dataset.testid = "bot";
  error.role = "alert";
  const said = () => [...parts.querySelectorAll(":scope > .text")].map((node) => node.source).join("\n");
  const copying = action("Copy", () => copy(said(), copying));
  const retry = action("Retry", () => ask(index - 1, props.value.turns[index - 1].text));
  const actions = make("div", "actions", copying, retry, action("Undo", () => trigger("undo")), status);
  const node = make("article", "turn answer", name, notice, parts, error, actions);
  const shown = []; // of each group: {type, source, view}

  function show(group, at, plain) {
    const source = JSON.stringify(group);
    if (shown[at]?.type !== group.type) {
      const view = group.type === "tool" ? toolView() : textView(plain);
      shown[at] = { type: group.type, view };
      if (parts.children[at]) parts.children[at].replaceWith(view.node);
      else parts.append(view.node);
    }
    if (shown[at].source === source) return;
    shown[at].source = source;
    shown[at].view.update(group);
    shown[at].view.node.source = group.text;
  }

  return {
    role: "assistant",
    node,
    update(turn, isLast) {
      const groups = grouped(turn.content);
      groups.forEach((group, at) => show(group, at, turn.plain));
      while (shown.length > groups.length) {
        shown.pop();
        parts.lastChild.remove();
      }
      name.textContent = turn.model;
      notice.textContent = turn.notice ?? "";
      error.textContent = turn.error ?? "";
      status.textContent = turn.status ?? "";
      node.classList.toggle("running", turn.running);
      node.classList.toggle("last", isLast);
      parts.ariaBusy = String(turn.running);
    },
  };
}

function drawWelcome({ title, text, command, examples }) {
  const cards = (examples ?? []).map((example) => {
    const card = make("button", "example", example);
    card.onclick = () => ask(0, example);
    return card;
  });
  const node = make("section", "welcome", make("h1", "", title), make("p", "", text));
  if (command) node.append(make("pre", "code", command));
  if (cards.length) node.append(make("div", "examples", ...cards));
  return node;
}

function draw() {
  const { turns, welcome } = props.value;
  const asked = turns.length > views.length || turns.length < views.length;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.querySelector(".welcome")?.remove();
  if (!turns.length) log.append(drawWelcome(welcome));
  while (views.length > turns.length) views.pop().node.remove();
  turns.forEach((turn, index) => {
    if (views[index]?.role !== turn.role) {
      views[index]?.node.remove();
      views[index] = turn.role === "user" ? userView(index) : answerView(index);
      log.append(views[index].node);
    }
    views[index].update(turn, index === turns.length - 1);
  });
  log.classList.toggle("busy", turns.at(-1)?.running === true);
  if (asked || atEnd) log.scrollTop = log.scrollHeight;
}

watch("value", draw);
draw();
