// Markdown, as far as small models write it: headings, lists, quotes, rules, fenced code, `code`, **bold**, *italic*,
// links. It makes nodes out of text and never HTML, so nothing that is written can become markup; what it does not
// know (images, tables, tags) stays as it is written.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
// Spans are bounded in length, so that no text takes long; * within a word is a sign of arithmetic, not of emphasis.
const INLINE = new RegExp(
  [
    /(?<ticks>`+)(?<code>[^]{1,2000}?)\k<ticks>(?!`)/,
    /(?<![\w*])\*\*(?=\S)(?<bold>[^]{1,2000}?)(?<=\S)\*\*(?![\w*])/,
    /(?<![\w*])\*(?=[^\s*])(?<italic>[^]{1,2000}?)(?<=[^\s*])\*(?![\w*])/,
    /(?<!!)\[(?<label>[^\]\n]{1,500})\]\((?<address>https?:\/\/[^\s)]{1,2000})\)/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function renderInline(text) {
  const out = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const { code, bold, italic, label, address } = match.groups;
    out.append(text.slice(end, match.index));
    end = match.index + match[0].length;
    if (code) out.append(make("code", "", code));
    else if (bold) out.append(make("strong", "", renderInline(bold)));
    else if (italic) out.append(make("em", "", renderInline(italic)));
    else {
      const link = make("a", "", label);
      Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer" });
      out.append(link);
    }
  }
  out.append(text.slice(end));
  return out;
}

function renderMarkdown(text, depth = 0) {
  const out = document.createDocumentFragment();
  const lines = text.split("\n");
  const opens = (line) => [FENCE, HEADING, RULE, ITEM, QUOTE].some((block) => block.test(line));
  let at = 0;
  const takeWhile = (wanted) => {
    const from = at;
    while (at < lines.length && wanted(lines[at])) at++;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) at++;
    else if ((found = line.match(FENCE))) {
      at++;
      const code = takeWhile((next) => !next.trim().startsWith(found[1]));
      at++;
      out.append(make("pre", "code", make("code", "", code.join("\n"))));
    } else if ((found = line.match(HEADING))) {
      at++;
      out.append(make(`h${found[1].length}`, "", renderInline(found[2])));
    } else if (RULE.test(line)) {
      at++;
      out.append(make("hr"));
    } else if (ITEM.test(line)) out.append(renderList(takeWhile((next) => ITEM.test(next) && !RULE.test(next))));
    else if (QUOTE.test(line) && depth < 4) {
      const quoted = takeWhile((next) => QUOTE.test(next)).map((next) => next.match(QUOTE)[1]);
      out.append(make("blockquote", "", renderMarkdown(quoted.join("\n"), depth + 1)));
    } else {
      at++;
      const paragraph = [line, ...takeWhile((next) => next.trim() && !opens(next))].map((next) => next.trim());
      out.append(make("p", "", renderInline(paragraph.join("\n"))));
    }
  }
  return out;
}

function renderList(lines) {
  const out = document.createDocumentFragment();
  let list = null;
  for (const line of lines) {
    const [, indent, number, text] = line.match(ITEM);
    const tag = number ? "ol" : "ul";
    if (list?.localName !== tag) out.append((list = make(tag)));
    const item = make("li", "", renderInline(text));
    item.style.marginInlineStart = `${Math.min(4, indent.length / 2)}em`;
    if (number) item.value = Number(number);
    list.append(item);
  }
  return out;
}
