/* Pages for reports: see html.h. */
#include "base/html.h"

#include "base/strbuf.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Colours stand here alone; charts use them by name. The series' six keep apart in both schemes and for the
 * common kinds of colour blindness (after Okabe and Ito). */
static const char style[] =
    ":root{color-scheme:light dark;--paper:#fff;--panel:#f6f5f2;--ink:#1f2328;--soft:#656d76;--line:#d9d7d1;"
    "--c1:#c2410c;--c2:#0369a1;--c3:#15803d;--c4:#a21caf;--c5:#a16207;--c6:#475569}"
    "@media(prefers-color-scheme:dark){:root{--paper:#15171a;--panel:#1e2125;--ink:#e6e4df;--soft:#9aa1a9;"
    "--line:#373b41;--c1:#fb923c;--c2:#38bdf8;--c3:#4ade80;--c4:#e879f9;--c5:#facc15;--c6:#94a3b8}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:76rem;background:var(--paper);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}"
    "h1{font-size:1.7rem;line-height:1.2;margin:0}h1+p{margin:.3rem 0 1.5rem;color:var(--soft)}"
    "h2{font-size:1.15rem;margin:2.4rem 0 .4rem}p{max-width:65ch;margin:.4rem 0 1rem;color:var(--soft)}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1rem 0}"
    ".card{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}"
    ".card b{display:block;font-size:1.5rem;line-height:1.25;font-weight:600;font-variant-numeric:"
    "tabular-nums}.card span{color:var(--soft);font-size:.85rem}"
    ".columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(28rem,100%),1fr));gap:1rem}"
    "figure{margin:0 0 1rem;background:var(--panel);border:1px solid var(--line);border-radius:.5rem;"
    "padding:.8rem .9rem;overflow-x:auto}figcaption{font-weight:600;margin-bottom:.3rem}"
    "svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Noto Sans',sans-serif}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5rem 0}"
    "th,td{padding:.25rem .8rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{font-weight:600;font-size:.85rem;color:var(--soft);vertical-align:bottom}.n{text-align:right}"
    "tbody tr:hover{background:var(--panel)}"
    "@media print{body{max-width:none;padding:0}figure,.card{break-inside:avoid}}";

void html_text(struct strbuf *b, const char *text)
{
    for (const char *s = text; *s; s++) {
        switch (*s) {
        case '&': strbuf_puts(b, "&amp;"); break;
        case '<': strbuf_puts(b, "&lt;"); break;
        case '>': strbuf_puts(b, "&gt;"); break;
        case '"': strbuf_puts(b, "&quot;"); break;
        case '\'': strbuf_puts(b, "&#39;"); break;
        default:
            if (((unsigned char)*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7f)
                strbuf_puts(b, "\xef\xbf\xbd");
            else
                strbuf_add(b, s, 1);
        }
    }
}

void html_begin(struct strbuf *b, const char *title, const char *subtitle)
{
    strbuf_puts(b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    html_text(b, title);
    strbuf_puts(b, "</title>\n<style>");
    strbuf_puts(b, style);
    strbuf_puts(b, "</style>\n</head>\n<body>\n<h1>");
    html_text(b, title);
    strbuf_puts(b, "</h1>\n<p>");
    if (subtitle) html_text(b, subtitle);
    strbuf_puts(b, "</p>\n");
}

void html_end(struct strbuf *b)
{
    strbuf_puts(b, "</body>\n</html>\n");
}

void html_heading(struct strbuf *b, const char *text)
{
    strbuf_puts(b, "<h2>");
    html_text(b, text);
    strbuf_puts(b, "</h2>\n");
}

static void formatted(struct strbuf *b, const char *fmt, va_list ap)
{
    char *text = NULL;
    if (vasprintf(&text, fmt, ap) < 0) {
        b->failed = true;
        return;
    }
    html_text(b, text);
    free(text);
}

void html_paragraph(struct strbuf *b, const char *fmt, ...)
{
    va_list ap;
    strbuf_puts(b, "<p>");
    va_start(ap, fmt);
    formatted(b, fmt, ap);
    va_end(ap);
    strbuf_puts(b, "</p>\n");
}

void html_cards_begin(struct strbuf *b)
{
    strbuf_puts(b, "<div class=\"cards\">\n");
}

void html_card(struct strbuf *b, const char *label, const char *value, const char *note)
{
    strbuf_puts(b, "<div class=\"card\"><span>");
    html_text(b, label);
    strbuf_puts(b, "</span><b>");
    html_text(b, value);
    strbuf_puts(b, "</b><span>");
    if (note) html_text(b, note);
    strbuf_puts(b, "</span></div>\n");
}

void html_cards_end(struct strbuf *b)
{
    strbuf_puts(b, "</div>\n");
}

void html_columns_begin(struct strbuf *b)
{
    strbuf_puts(b, "<div class=\"columns\">\n");
}

void html_columns_end(struct strbuf *b)
{
    strbuf_puts(b, "</div>\n");
}

void html_table_begin(struct html_table *t, struct strbuf *b, const char *const *heads, int columns)
{
    *t = (struct html_table){b, columns, 0};
    strbuf_puts(b, "<div class=\"table\"><table>\n<thead><tr>");
    for (int i = 0; i < columns; i++) {
        bool right = heads[i][0] == '>';
        strbuf_puts(b, right ? "<th class=\"n\">" : "<th>");
        html_text(b, heads[i] + right);
        strbuf_puts(b, "</th>");
    }
    strbuf_puts(b, "</tr></thead>\n<tbody>\n");
}

static void cell_begin(struct html_table *t, const char *tag)
{
    if (t->at == 0) strbuf_puts(t->b, "<tr>");
    strbuf_puts(t->b, tag);
}

static void cell_end(struct html_table *t)
{
    strbuf_puts(t->b, "</td>");
    t->at = (t->at + 1) % t->columns;
    if (t->at == 0) strbuf_puts(t->b, "</tr>\n");
}

void html_cell(struct html_table *t, const char *text)
{
    cell_begin(t, "<td>");
    html_text(t->b, text);
    cell_end(t);
}

void html_cell_number(struct html_table *t, const char *fmt, ...)
{
    va_list ap;
    cell_begin(t, "<td class=\"n\">");
    va_start(ap, fmt);
    formatted(t->b, fmt, ap);
    va_end(ap);
    cell_end(t);
}

void html_table_end(struct html_table *t)
{
    while (t->at) html_cell(t, "");
    strbuf_puts(t->b, "</tbody>\n</table></div>\n");
}
