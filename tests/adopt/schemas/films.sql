-- A film rental: an enum, domains, arrays, a generated tsvector, two references to one table, two tables that refer to each
-- other, joins with a time of their own, partitions, views with and without a key.
CREATE TYPE mpaa_rating AS ENUM ('G', 'PG', 'PG-13', 'R', 'NC-17');
CREATE DOMAIN year AS integer CHECK (VALUE BETWEEN 1901 AND 2155);
CREATE DOMAIN postcode AS varchar(10);
CREATE FUNCTION last_updated() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.last_update = CURRENT_TIMESTAMP; RETURN NEW; END $$;
CREATE TABLE actor (
    actor_id serial PRIMARY KEY,
    first_name text NOT NULL,
    last_name text NOT NULL,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_actor_last_name ON actor (last_name);
CREATE TABLE category (
    category_id serial PRIMARY KEY, name text NOT NULL, last_update timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE language (
    language_id serial PRIMARY KEY, name character(20) NOT NULL, last_update timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE film (
    film_id serial PRIMARY KEY,
    title text NOT NULL,
    description text,
    release_year year,
    language_id integer NOT NULL REFERENCES language ON UPDATE CASCADE ON DELETE RESTRICT,
    original_language_id integer REFERENCES language ON UPDATE CASCADE ON DELETE RESTRICT,
    rental_duration smallint NOT NULL DEFAULT 3,
    rental_rate numeric(4, 2) NOT NULL DEFAULT 4.99,
    length smallint,
    replacement_cost numeric(5, 2) NOT NULL DEFAULT 19.99,
    rating mpaa_rating DEFAULT 'G',
    special_features text[],
    fulltext tsvector GENERATED ALWAYS AS (to_tsvector('english', title)) STORED,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX film_fulltext_idx ON film USING gist (fulltext);
CREATE INDEX idx_title ON film (title);
CREATE INDEX idx_fk_language_id ON film (language_id);
CREATE INDEX idx_fk_original_language_id ON film (original_language_id);
CREATE INDEX idx_rating ON film (rating);
CREATE INDEX idx_features ON film USING gin (special_features);
CREATE TRIGGER last_updated BEFORE UPDATE ON film FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TABLE film_actor (
    actor_id integer NOT NULL REFERENCES actor ON UPDATE CASCADE ON DELETE RESTRICT,
    film_id integer NOT NULL REFERENCES film ON UPDATE CASCADE ON DELETE CASCADE,
    last_update timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor_id, film_id)
);
CREATE INDEX idx_fk_film_id ON film_actor (film_id);
CREATE TABLE film_category (
    film_id integer NOT NULL REFERENCES film ON UPDATE CASCADE ON DELETE CASCADE,
    category_id integer NOT NULL REFERENCES category ON UPDATE CASCADE ON DELETE RESTRICT,
    last_update timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (film_id, category_id)
);
CREATE TABLE country (country_id serial PRIMARY KEY, country text NOT NULL, last_update timestamptz NOT NULL DEFAULT now());
CREATE TABLE city (
    city_id serial PRIMARY KEY,
    city text NOT NULL,
    country_id integer NOT NULL REFERENCES country,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_fk_country_id ON city (country_id);
CREATE TABLE address (
    address_id serial PRIMARY KEY,
    address text NOT NULL,
    postal_code postcode,
    city_id integer NOT NULL REFERENCES city,
    phone text NOT NULL,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_fk_city_id ON address (city_id);
CREATE TABLE store (
    store_id serial PRIMARY KEY,
    manager_staff_id integer NOT NULL,
    address_id integer NOT NULL REFERENCES address,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX idx_unq_manager_staff_id ON store (manager_staff_id);
CREATE TABLE staff (
    staff_id serial PRIMARY KEY,
    first_name text NOT NULL,
    last_name text NOT NULL,
    address_id integer NOT NULL REFERENCES address,
    email text,
    store_id integer NOT NULL REFERENCES store DEFERRABLE INITIALLY DEFERRED,
    active boolean NOT NULL DEFAULT true,
    username text NOT NULL,
    password text,
    picture bytea,
    last_update timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE store ADD FOREIGN KEY (manager_staff_id) REFERENCES staff DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE customer (
    customer_id serial PRIMARY KEY,
    store_id integer NOT NULL REFERENCES store,
    first_name text NOT NULL,
    last_name text NOT NULL,
    email text,
    address_id integer NOT NULL REFERENCES address,
    activebool boolean NOT NULL DEFAULT true,
    create_date date NOT NULL DEFAULT CURRENT_DATE,
    last_update timestamptz DEFAULT now(),
    active integer
);
CREATE INDEX idx_last_name ON customer (last_name);
CREATE INDEX idx_fk_store_id ON customer (store_id);
CREATE TABLE inventory (
    inventory_id serial PRIMARY KEY,
    film_id integer NOT NULL REFERENCES film,
    store_id integer NOT NULL REFERENCES store,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_store_id_film_id ON inventory (store_id, film_id);
CREATE TABLE rental (
    rental_id serial PRIMARY KEY,
    rental_date timestamp NOT NULL,
    inventory_id integer NOT NULL REFERENCES inventory,
    customer_id integer NOT NULL REFERENCES customer,
    return_date timestamp,
    rental_period interval GENERATED ALWAYS AS (return_date - rental_date) STORED,
    staff_id integer NOT NULL REFERENCES staff,
    last_update timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX idx_unq_rental ON rental (rental_date, inventory_id, customer_id);
CREATE INDEX idx_fk_inventory_id ON rental (inventory_id);
CREATE TABLE payment (
    payment_id serial,
    customer_id integer NOT NULL REFERENCES customer,
    staff_id integer NOT NULL REFERENCES staff,
    rental_id integer NOT NULL REFERENCES rental,
    amount numeric(5, 2) NOT NULL,
    payment_date timestamptz NOT NULL,
    PRIMARY KEY (payment_date, payment_id)
) PARTITION BY RANGE (payment_date);
CREATE TABLE payment_2026_01 PARTITION OF payment FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z');
CREATE TABLE payment_2026_02 PARTITION OF payment FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z');
CREATE TABLE terminal (terminal_id serial PRIMARY KEY, address inet NOT NULL, network cidr, mac macaddr, hours int4range);
CREATE INDEX idx_terminal_address ON terminal (address);
CREATE VIEW customer_list AS
    SELECT customer_id AS id, first_name || ' ' || last_name AS name, address.phone, city.city, country.country
    FROM customer JOIN address USING (address_id) JOIN city USING (city_id) JOIN country USING (country_id);
CREATE VIEW sales_by_store AS
    SELECT city.city AS store, sum(amount) AS total_sales
    FROM payment JOIN staff USING (staff_id) JOIN store USING (store_id)
    JOIN address ON address.address_id = store.address_id JOIN city USING (city_id) GROUP BY city.city;
CREATE MATERIALIZED VIEW rental_by_category AS
    SELECT category_id, category.name AS category, count(*) AS films
    FROM category JOIN film_category USING (category_id) GROUP BY category_id, category.name;
CREATE UNIQUE INDEX rental_by_category_key ON rental_by_category (category_id);

INSERT INTO actor (first_name, last_name) VALUES ('PENELOPE', 'GUINESS'), ('NICK', 'WAHLBERG');
INSERT INTO category (name) VALUES ('Action'), ('Comedy');
INSERT INTO language (name) VALUES ('English'), ('Italian');
INSERT INTO film (title, description, release_year, language_id, original_language_id, length, rating, special_features)
    VALUES ('ACADEMY DINOSAUR', 'An epic drama', 2006, 1, NULL, 86, 'PG', '{Trailers,"Deleted Scenes"}'),
           ('ACE GOLDFINGER', NULL, 2006, 1, 2, 48, 'NC-17', NULL);
INSERT INTO film_actor (actor_id, film_id) VALUES (1, 1), (2, 1), (2, 2);
INSERT INTO film_category (film_id, category_id) VALUES (1, 1), (2, 2);
INSERT INTO country (country) VALUES ('Italy'), ('Canada');
INSERT INTO city (city, country_id) VALUES ('Roma', 1), ('Lethbridge', 2);
INSERT INTO address (address, postal_code, city_id, phone) VALUES ('47 MySakila Drive', NULL, 2, ''), ('Via Appia', '00100', 1, '06');
BEGIN;
INSERT INTO store (store_id, manager_staff_id, address_id) VALUES (1, 1, 1);
INSERT INTO staff (staff_id, first_name, last_name, address_id, store_id, username, password, picture)
    VALUES (1, 'Mike', 'Hillyer', 1, 1, 'Mike', '8cb2237d0679ca88db6464eac60da96345513964', '\x89504e470d0a');
COMMIT;
SELECT setval('store_store_id_seq', 1), setval('staff_staff_id_seq', 1);
INSERT INTO staff (first_name, last_name, address_id, store_id, username) VALUES ('Jon', 'Stephens', 2, 1, 'Jon');
INSERT INTO customer (store_id, first_name, last_name, email, address_id, active)
    VALUES (1, 'MARY', 'SMITH', 'mary@example.com', 2, 1), (1, 'PATRICIA', 'JOHNSON', NULL, 1, 0);
INSERT INTO inventory (film_id, store_id) VALUES (1, 1), (2, 1);
INSERT INTO rental (rental_date, inventory_id, customer_id, return_date, staff_id)
    VALUES ('2026-01-24 22:53:30', 1, 1, '2026-01-26 22:04:30', 1), ('2026-02-01 10:00', 2, 2, NULL, 2);
INSERT INTO payment (customer_id, staff_id, rental_id, amount, payment_date)
    VALUES (1, 1, 1, 2.99, '2026-01-24 21:21:56.996577+00'), (2, 2, 2, 0.99, '2026-02-01 10:00+00');
INSERT INTO terminal (address, network, mac, hours) VALUES ('10.0.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '[8,20)');
REFRESH MATERIALIZED VIEW rental_by_category;
