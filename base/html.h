/* Pages for reports: one file, no network, readable in light and dark, printed as well as shown. Written into
 * a strbuf; charts are base/svg.h's. */
#ifndef BASE_HTML_H
#define BASE_HTML_H

struct strbuf;

/* Opens the page with its heading; `subtitle` may be NULL. */
void html_begin(struct strbuf *b, const char *title, const char *subtitle);
void html_end(struct strbuf *b);

/* Text with &, <, >, " and ' escaped; control characters but newline and tab become U+FFFD. Fit for
 * attributes too. */
void html_text(struct strbuf *b, const char *text);

void html_heading(struct strbuf *b, const char *text); /* of a section */
void html_paragraph(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The figures that matter, side by side: begin, one html_card each, end. `note` may be NULL. */
void html_cards_begin(struct strbuf *b);
void html_card(struct strbuf *b, const char *label, const char *value, const char *note);
void html_cards_end(struct strbuf *b);

/* Charts side by side where there is room. */
void html_columns_begin(struct strbuf *b);
void html_columns_end(struct strbuf *b);

/* A table: heads (to the right where they begin with '>'), then cells row by row; html_cell begins rows by
 * itself, text to the left, numbers to the right. */
struct html_table {
    struct strbuf *b;
    int columns, at;
};
void html_table_begin(struct html_table *t, struct strbuf *b, const char *const *heads, int columns);
void html_cell(struct html_table *t, const char *text);
void html_cell_number(struct html_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void html_table_end(struct html_table *t); /* fills the last row up */

#endif
